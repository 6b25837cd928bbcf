"""The notebooks as GitHub shows them: pages without scripts and styles, in which all that a reader needs still is.

GitHub's own renderer is not public. What is known: a notebook becomes a static page (docs.github.com, "Working with
non-code files"). HTML is cut down to elements and attributes that are harmless (github.com/github/markup). Formulas are
set by MathJax after Markdown was read, and what Markdown takes for its own is lost (docs.github.com, "Writing
mathematical expressions"; github.com/nschloe/github-math-bugs lists what else goes wrong). So a formula has to survive
both readings: that of nbconvert, which knows formulas, and that of plain Markdown.
"""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import bleach
import mistune
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
EXPORTER = HTMLExporter(template_name="basic", exclude_input=True, default_preprocessors=[])  # code is only coloured
ELEMENTS = """
    a abbr b blockquote br caption cite code dd del details dfn div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr
    i img ins kbd li mark ol p pre q s samp small span strike strong sub summary sup table tbody td tfoot th thead
    tr tt ul var
""".split()
ATTRIBUTES = {
    "*": ["align", "alt", "aria-label", "colspan", "dir", "height", "id", "lang", "open", "rowspan", "title", "width"],
    "a": ["href"],
    "img": ["src"],
}
PROTOCOLS = ["http", "https", "mailto", "data"]  # pictures in outputs are data


def shown(cell):
    """The cell's page as nbconvert makes it, and what GitHub leaves of it."""
    html, _ = EXPORTER.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    html = re.sub(r"<style>pre \{.*?</style>", "", html, flags=re.S)  # Pygments' colours for code; GitHub has its own
    left = bleach.clean(html, tags=ELEMENTS, attributes=ATTRIBUTES, protocols=PROTOCOLS, strip=True)
    return BeautifulSoup(html, "html.parser"), BeautifulSoup(left, "html.parser")


def parts(page):
    """Every element of a page and every attribute; not those that only nbconvert's style sheet needs."""
    unneeded = {"class", "rel", "target"}
    return Counter(
        part
        for element in page.find_all()
        for part in [f"<{element.name}>"]
        + [f"{name}= of <{element.name}>" for name in element.attrs if name not in unneeded]
    )


def without_code(source):
    return re.sub(r"(?ms)^ *```.*?^ *```$|(`+)[^`].*?\1", "`", source)


def lost(cell, folder):
    """What a reader on GitHub would miss in this cell, in words."""
    before, page = shown(cell)
    yield from (f"{part} is taken out" for part in parts(before) - parts(page))
    for image in page.find_all("img"):
        source = image.get("src", "")
        if not re.match(r"https?://|data:image/", source) and not (source and (folder / unquote(source)).is_file()):
            yield f"there is no picture {source!r}"
        if not image.get("alt"):
            yield f"the picture {source[:40]!r} has no text for those who cannot see it"
    if cell.cell_type == "markdown":
        yield from lost_in_markdown(cell.source, page)
    elif cell.cell_type == "code":
        yield from lost_in_code(cell, page)


def lost_in_markdown(source, page):
    text = page.get_text()
    prose = without_code(source)
    hangul = r"[\uac00-\ud7a3]+"
    if re.findall(hangul, source) != re.findall(hangul, text):
        yield "Korean words are missing or in another order"
    for code in page.find_all(["code", "pre"]):
        code.decompose()
    if left := re.findall(r"\*\*|```|\]\(|</?\w+>|^\|.*\|$|^#+ ", page.get_text(), re.MULTILINE):
        yield f"Markdown that shows as such: {left}"
    if len(page.find_all("details")) != prose.count("</details>"):
        yield "<details> and </details> do not match"
    for details in page.find_all("details"):
        summary = details.find(True)
        if not summary or summary.name != "summary" or not summary.get_text(strip=True):
            yield "<details> does not begin with a <summary>"
        if details.find(["h1", "h2", "details"]):
            yield "<details> is not closed before the next part"
    if len(page.find_all("table")) != len(re.findall(r"^\|[-:| ]+\|$", prose, re.MULTILINE)):
        yield "a table is not shown as one"
    yield from lost_formulas(source, prose, text)


def lost_formulas(source, prose, text):
    plain = BeautifulSoup(mistune.html(source), "html.parser").get_text()
    formula = r"\$\$.+?\$\$|\$(?:[^$\\]|\\.)+\$"
    for match in re.finditer(formula, prose, re.DOTALL):
        around = prose[: match.start()][-1:], prose[match.end() :][:1]
        body = match[0].strip("$")
        if match[0].startswith("$$"):
            if not re.search(r"(?m)^" + re.escape(match[0]) + r"$", prose):
                yield f"{match[0]} does not stand alone on its lines"
        elif body != body.strip() or "\n" in body:
            yield f"{match[0]} has a space at an end or is broken across lines"
        elif around[0] not in " \n([" or around[1] not in " \n.,;:?!)]":
            yield f"{match[0]} stands between {around[0]!r} and {around[1]!r}, not between spaces or punctuation"
        if match[0] not in plain or match[0] not in text:
            yield f"{match[0]}: a part of it is taken for Markdown or HTML"
    if "$" in re.sub(formula, "", prose, flags=re.DOTALL):
        yield "a dollar sign that belongs to no formula"


def lost_in_code(cell, page):
    text = page.get_text()
    for output in cell.outputs:
        written = output.get("text", "") or ("" if "image/png" in output.get("data", {}) else output.data["text/plain"])
        if written.strip() not in text:
            yield f"the output {written!r}"
    figures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
    if figures != len(page.find_all("img")):
        yield "a figure"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("0*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_whole_on_github(path):
    cells = nbformat.read(path, as_version=4).cells
    assert [f"cell {i}: {what}" for i, cell in enumerate(cells) for what in lost(cell, path.parent)] == []


WOUNDED = [
    ('<div style="border: 1px solid">text</div>', "style= of <div> is taken out"),
    ('<iframe src="https://example.org/">', "<iframe> is taken out"),
    ("<details><summary>한국어 요약</summary>\n\nText", "do not match"),
    ("<details>\n\nText\n\n</details>", "does not begin with a <summary>"),
    ("<details><summary>Hint</summary>\n\nText\n\n# Next\n\n</details>", "not closed before the next part"),
    ("![a curve](../images/none.png)", "there is no picture"),
    ("![](../images/network.png)", "has no text"),
    ("| a | b |\n| --- |\n| 1 | 2 |", "a table is not shown as one"),
    ("**텐서보드(TensorBoard)**는", "Markdown that shows as such"),
    ("It costs 5$ or 6$ an image.", "a space at an end"),
    ("It costs 5 $ an image.", "belongs to no formula"),
    ("an$x$", "not between spaces or punctuation"),
    ("two standard errors *of $a$*", "not between spaces or punctuation"),
    ("$ x $", "a space at an end"),
    ("$x +\ny$", "broken across lines"),
    ("so $$x$$", "does not stand alone"),
    (r"$\{x\}$", "taken for Markdown or HTML"),
    (r"$c\,n$", "taken for Markdown or HTML"),
    (r"$\hat{a}_{i} + \hat{b}_{j}$", "taken for Markdown or HTML"),
    ("$[a](b)$", "taken for Markdown or HTML"),
    ("$a <b > c$", "taken for Markdown or HTML"),
]


@pytest.mark.parametrize(("source", "complaint"), WOUNDED, ids=[source[:30] for source, _ in WOUNDED])
def test_what_github_would_not_show_is_noticed(source, complaint):
    found = list(lost(nbformat.v4.new_markdown_cell(source), NOTEBOOKS))
    assert any(complaint in what for what in found), found
