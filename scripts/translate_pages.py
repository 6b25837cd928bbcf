"""Write the Korean pages: `make translate`, after a change of an English page or of a catalogue in locale/ko/.

English is the only source. Each English page has a gettext catalogue, locale/ko/<page>.po, with a message for each
paragraph, heading, item and cell of a table. An English paragraph that changed makes its message *fuzzy*: its Korean
text is kept beside the new English one, but not used until somebody has read both and taken the mark away. A Korean
notebook has the code, the outputs and the figures of the English one.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from translate.convert.pot2po import convert_stores
from translate.storage.markdown import MarkdownFile
from translate.storage.po import pofile

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: name.replace(".md", ".ko.md") for name in ("README.md", "CORRECTIONS.md", "weights/README.md")} | {
    f"notebooks/{path.name}": f"notebooks/ko/{path.name}" for path in sorted(ROOT.glob("notebooks/0*.ipynb"))
}
NO_WORDS = re.compile(r"`[^`]*`|\$[^$]*\$|\[!\[.*?\]\(.*?\)\]\(.*?\)|\]\(.*?\)|&\w+;")  # code, formulas, badges, links


def catalogue(page: str) -> Path:
    return (ROOT / "locale/ko" / page).with_suffix(".po")


def rewrite(text: str, say: Callable[[str], str]) -> str:
    """Markdown `text` with `say(message)` in place of each message. Code, formulas and badges are no messages."""

    def words(part: str) -> str:
        has_words = re.search("[A-Za-z]", NO_WORDS.sub("", part))
        return say(part) if has_words else re.sub(r"(?<=\d) (?=\d{3})", ",", part)  # 40 000: 40,000

    page = MarkdownFile(callback=words, extract_code_blocks=False, extract_frontmatter=False, no_placeholders=True)
    page.parse(text.encode())
    said = re.sub("(?<=<summary>).*?(?=</summary>)", lambda match: words(match[0]), page.filesrc)
    said = re.sub(r"(?m)(?<=\|)(?= *-+ *\|).*$", lambda m: re.sub("-+", "---", m[0]), said)
    said = re.sub(r"(?m)^\|.*\|$", lambda row: re.sub(r" +\|", " |", row[0]), said)  # no spaces to fill columns
    return said if text.endswith("\n") else said.removesuffix("\n")


def rewrite_page(page: str, change: Callable[[str], str]) -> str:
    """The file `page` with `change(text)` in place of its Markdown: of each Markdown cell and figure's description."""
    content = (ROOT / page).read_text(encoding="utf-8")
    if not page.endswith(".ipynb"):
        return change(content)
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = change("".join(cell["source"])).splitlines(keepends=True)
        elif "alt" in cell["metadata"]:
            cell["metadata"]["alt"] = change(cell["metadata"]["alt"])
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def messages(page: str) -> list[str]:
    """The messages of an English page in their order, each once."""
    found: dict[str, None] = {}
    rewrite_page(page, lambda text: rewrite(text, lambda message: found.setdefault(message) or message))
    return list(found)


def translations(page: str) -> dict[str, str]:
    """message -> its Korean text, of those that somebody has translated and that no change has made fuzzy."""
    store = pofile.parsefile(str(catalogue(page)))
    return {unit.source: unit.target for unit in store.units if unit.istranslated()}


def in_korean(page: str) -> str:
    """The Korean page: what has no translation stays English, and links lead to Korean pages where there are any."""
    texts = translations(page)
    return rewrite_page(page, lambda text: link_to_korean(page, rewrite(text, lambda m: texts.get(m, m))))


def link_to_korean(page: str, text: str) -> str:
    counterpart = PAGES | {PAGES[page]: page}  # the link to the other language

    def link(match: re.Match[str]) -> str:
        path = (ROOT / page).parent.joinpath(match[1]).resolve() if match[1] else ROOT / page
        if "://" in match[1] or not path.is_relative_to(ROOT):
            return re.sub(r"/notebooks/(?=\d\d_)", "/notebooks/ko/", match[0])  # in the address of a badge
        name = path.relative_to(ROOT).as_posix()
        to = os.path.relpath(ROOT / counterpart.get(name, name), (ROOT / PAGES[page]).parent)
        anchor = anchors(name).get(match[2], match[2]) if match[2] and name in PAGES else match[2] or ""
        return f"]({Path(to).as_posix() if match[1] else ''}{anchor}"

    return re.sub(r"\]\(([^)#]*)(#[^)]*)?", link, text.replace("[한국어](", "[English]("))


def anchors(page: str) -> dict[str, str]:
    """Where a link to each heading leads: English -> Korean, as GitHub names it."""
    texts = translations(page)
    headings = re.findall("^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    pairs = ([heading, texts.get(heading, heading)] for heading in headings)
    return dict(["#" + re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in pair] for pair in pairs)


def update_catalogue(page: str) -> list[str]:
    """Give the catalogue the messages that its page now has; return those that are not translated, or fuzzy."""
    template = pofile(width=-1)  # one line each: an address in it stays whole, for set_repository.py
    for message in messages(page):
        template.addunit(template.UnitClass(message, wrapper=template.wrapper))
    before = pofile.parsefile(str(catalogue(page))) if catalogue(page).exists() else None
    merged = convert_stores(template, before)
    merged.units = [unit for unit in merged.units if not unit.isobsolete()]
    merged.header().target = "Content-Type: text/plain; charset=UTF-8\nLanguage: ko\n"  # no date: no change for nothing
    catalogue(page).parent.mkdir(parents=True, exist_ok=True)
    catalogue(page).write_bytes(bytes(merged))
    return [unit.source for unit in merged.units if not unit.isheader() and not unit.istranslated()]


def main() -> None:
    missing = 0
    for page, korean in PAGES.items():
        lacking = update_catalogue(page)
        (ROOT / korean).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / korean).write_text(in_korean(page), encoding="utf-8", newline="\n")
        missing += len(lacking)
        for message in lacking:
            print(f"{catalogue(page).relative_to(ROOT)}: not translated, or fuzzy: {message[:80]!r}")
    if missing:
        raise SystemExit(f"{missing} messages are still English. Translate them there, then run this again.")


if __name__ == "__main__":
    main()
