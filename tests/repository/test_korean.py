"""The Korean pages say what the English ones say, and have their code, outputs and figures."""

import json
import re
import shutil
from collections import Counter

import pytest
import translate_pages
from translate_pages import PAGES, ROOT, catalogue, in_korean, messages, pofile, translations

NOTEBOOKS = [page for page in PAGES if page.endswith(".ipynb")]
CODE, FORMULA, TARGET = r"`[^`]*`", r"\$[^$]+\$", r"(?<=\])\([^)]*\)"
TERMS = re.findall(r"^\| (?!-|English)(.+?) \| (.+?) \|$", (ROOT / "locale/ko/glossary.md").read_text("utf-8"), re.M)


def numbers(text):
    """How often each number occurs; 10 000 and 10,000 are the same one."""
    plain = re.sub(f"{CODE}|{FORMULA}|{TARGET}|[0-9.]+ [bm]illion", "", text)  # 1.2 million: 120만
    joined = re.sub(r"(?<=\d)[ ,](?=\d{3}(?!\d))", "", plain)
    return Counter(re.findall(r"(?!0\d)\d+(?:\.\d+)*", joined))  # 04-10: 4월 10일


@pytest.mark.parametrize("page", PAGES)
def test_each_message_is_translated_and_the_page_is_as_the_script_writes_it(page):
    store = pofile.parsefile(str(catalogue(page)))
    assert [unit.source for unit in store.units if not unit.isheader()] == messages(page), "make translate"
    assert [message for message in messages(page) if message not in translations(page)] == [], f"in {catalogue(page)}"
    assert (ROOT / PAGES[page]).read_text(encoding="utf-8") == in_korean(page), "make translate"


@pytest.mark.parametrize("page", PAGES)
def test_numbers_code_formulas_and_links_of_each_message_stand_in_its_korean_text(page):
    for english, korean in translations(page).items():
        for kind in (CODE, FORMULA, TARGET):
            assert sorted(re.findall(kind, english)) == sorted(re.findall(kind, korean)), english
        assert numbers(english) - numbers(korean) == Counter(), english


@pytest.mark.parametrize("page", PAGES)
def test_the_glossary_has_one_word_for_a_thing(page):
    for english, korean in translations(page).items():
        plain = re.sub(rf"{CODE}|\[[^]]*\]\([^)]*\)|\]\[.*?\]", "", english)  # no titles, no names of files
        for term, word in TERMS:
            if re.search(rf"(?<![\w-]){term}(s|es)?(?![\w-])", plain, re.IGNORECASE):
                assert word in korean, f"{term} is {word}: {english}"


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_korean_notebook_has_the_code_and_outputs_of_the_english_one(page):
    english, korean = (json.loads((ROOT / name).read_text(encoding="utf-8")) for name in (page, PAGES[page]))
    for cell, other in zip(english["cells"], korean["cells"], strict=True):
        parts = ("cell_type", "id", "source", "outputs", "execution_count")
        parts = parts[: 2 if cell["cell_type"] == "markdown" else None]
        assert [cell.get(part) for part in parts] == [other.get(part) for part in parts]
        assert cell["metadata"].get("tags") == other["metadata"].get("tags")


def test_a_change_of_the_english_asks_for_the_korean_again(tmp_path, monkeypatch):
    for name in ("CORRECTIONS.md", "locale"):
        (shutil.copytree if name == "locale" else shutil.copy)(ROOT / name, tmp_path / name)
    monkeypatch.setattr(translate_pages, "ROOT", tmp_path)
    page = tmp_path / "CORRECTIONS.md"
    sentence = next(message for message in messages(page.name) if "honest" in message)
    page.write_text(page.read_text(encoding="utf-8").replace("honest", "sincere"), encoding="utf-8")
    changed = translate_pages.update_catalogue(page.name)
    assert changed == [sentence.replace("honest", "sincere")]
    assert [message for message in messages(page.name) if message not in translations(page.name)] == changed
    unit = pofile.parsefile(str(catalogue(page.name))).findunit(changed[0])
    assert unit.isfuzzy() and unit.target, "the Korean of before is there to be mended"
