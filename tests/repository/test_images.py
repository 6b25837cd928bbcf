"""The pictures in images/: as their script draws them, shown where they help, and told to those who cannot see them."""

import re
import runpy
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib.image import imread
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {path.name: path for path in (ROOT / "images").glob("*.png")}
README = ("README.md", "README.ko.md")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
DRAW = runpy.run_path(str(ROOT / "scripts" / "draw.py"))


def markdown(notebook):
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown"]


def shown_in(name):
    """Name and alternative text of each picture that a README shows."""
    found = re.findall(r"!\[([^]]*)\]\(images/([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    return {picture: alt for alt, picture in found}


EMBEDDED = [
    pytest.param(cell, alt, picture, id=f"{notebook.stem}-{picture}")
    for notebook in NOTEBOOKS
    for cell in markdown(notebook)
    for alt, picture in re.findall(r"!\[([^]]*)\]\[([^]]+)\]", cell.source)
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return DRAW["draw_all"](tmp_path_factory.mktemp("images"))


def test_the_script_draws_every_picture_that_is_committed(drawn):
    assert {file.name for file in drawn} == set(PICTURES)


def test_the_committed_pictures_are_what_the_script_draws(drawn):
    """To within a shade. One digit that is another moves dots by 170 of 255 and more."""
    if f"matplotlib=={matplotlib.__version__}" not in (ROOT / "requirements.txt").read_text(encoding="utf-8").split():
        pytest.skip(f"matplotlib {matplotlib.__version__} spaces letters otherwise than the pinned version")
    for file in drawn:
        now, committed = (255 * imread(path)[..., :3] for path in (file, PICTURES[file.name]))
        assert now.shape == committed.shape
        difference = np.abs(now - committed)
        is_same = difference.max() <= 64 and difference.mean() <= 0.5
        assert is_same, f"images/{file.name} is out of date: run python scripts/draw.py"


def test_pictures_are_small_and_the_same_whenever_they_are_drawn(drawn):
    for file in drawn:
        content = file.read_bytes()
        assert len(content) < 150_000
        assert not re.search(rb"tEXt|iTXt|tIME", content), "no version and no date"


def test_every_picture_is_shown():
    assert {picture for name in README for picture in shown_in(name)} | {p.values[2] for p in EMBEDDED} == set(PICTURES)
    assert list(shown_in("README.md")) == list(shown_in("README.ko.md"))


@pytest.mark.parametrize("name", README)
def test_the_readme_tells_what_is_in_its_pictures(name):
    for alt in shown_in(name).values():
        assert 60 < len(alt) < 300
        assert bool(re.search("[가-힣]", alt)) == (name == "README.ko.md")


@pytest.mark.parametrize(("cell", "alt", "picture"), EMBEDDED)
def test_a_notebook_brings_its_picture_along(cell, alt, picture):
    """One that only points to images/ shows nothing in Colab, nor in a JupyterLab that was started in notebooks/."""
    assert 60 < len(alt) < 300
    assert cell.source.splitlines()[-1] == DRAW["embedded"](PICTURES[picture]), "run python scripts/draw.py"
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    (image,) = re.findall(r"<img [^>]*>", page)
    assert f'alt="{alt}"' in image and DRAW["embedded"](PICTURES[picture]).split(": ")[1] in image


def test_no_notebook_points_to_a_picture_outside_it():
    for notebook in NOTEBOOKS:
        for cell in markdown(notebook):
            assert not re.search(r"!\[[^]]*\]\((?!https:)", cell.source), cell.source
