"""How long a notebook takes to read: its first cell says what its text comes to, and the core path stays short."""

import re

import nbformat
import pytest
from test_notebooks import NOTEBOOKS

WORDS_PER_MINUTE, SECONDS_PER_LINE = 200, 3
IN_TWO_HOURS = [path for path in NOTEBOOKS if path.stem < "07"]


def minutes_by_part(path):
    """{"core" or "more": minutes} of one notebook: hints and solutions, which are folded, and exercises do not count.

    A heading of the second level says what it is; a deeper one may say that it is more, within what is core.
    """
    seconds, section, part = {"core": 0.0, "more": 0.0}, "core", "core"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            seconds[part] += SECONDS_PER_LINE * sum(bool(line.strip()) for line in cell.source.splitlines())
            continue
        text = re.sub(r"<details>.*?</details>|\]\([^)]*\)|<[^>]+>", " ", cell.source, flags=re.S)
        for block in re.split(r"^(?=##+ )", text, flags=re.M):
            if block.startswith("## Exercises"):
                return {name: amount / 60 for name, amount in seconds.items()}
            if heading := re.match(r"(##+) (.*)", block):
                marked = re.search(r" · (core|more)$", heading[2])
                assert marked or len(heading[1]) > 2 or heading[2] == "Recap", f"core or more? {heading[0]}"
                part = marked[1] if marked else "core" if heading[2] == "Recap" else section
                section = part if len(heading[1]) == 2 else section
            seconds[part] += 60 / WORDS_PER_MINUTE * sum(bool(re.search(r"\w", word)) for word in block.split())
    return {name: amount / 60 for name, amount in seconds.items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_how_long_reading_takes(path):
    core, more = minutes_by_part(path).values()
    first = nbformat.read(path, as_version=4).cells[0].source
    said = re.search(r"\*\*Reading time:\*\* (\d+) minutes?(?: for the core, (\d+) for everything)?\.", first)
    wanted = (round(core), round(core + more) if more else None)
    assert said and (int(said[1]), said[2] and int(said[2])) == wanted, f"of the text: {wanted}"
    assert path not in IN_TWO_HOURS[2:] or core <= 25


def test_the_core_of_the_six_reads_in_two_hours():
    assert sum(minutes_by_part(path)["core"] for path in IN_TWO_HOURS) <= 120
