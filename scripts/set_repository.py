"""Write the repository's address and version, as pyproject.toml has them, into badges and notebooks.

    python scripts/set_repository.py                  after a new version was written there
    python scripts/set_repository.py some-one/name    writes this name there first, as the workflow does

A badge opens its notebook as it is at the tag v<version>, and the notebook's first cell installs the package of the
same tag: the two never differ. The workflow makes the tag, once the tests have passed on main. As long as the owner is
called OWNER a badge would lead nowhere: it stands in a comment, which no page shows.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(repository: str | None = None) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if repository:
        pyproject = re.sub("(?m)^Repository = .*", f'Repository = "https://github.com/{repository}"', pyproject)
    project = tomllib.loads(pyproject)["project"]
    address = project["urls"]["Repository"]
    name = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", address)
    if name is None:
        raise SystemExit(f"pyproject.toml: Repository cannot be {address!r}, only https://github.com/<owner>/<name>.")
    (ROOT / "pyproject.toml").write_text(pyproject, encoding="utf-8", newline="\n")
    tag = f"v{project['version']}"
    badge = r"<!-- \1 -->" if name[1].startswith("OWNER/") else r"\1"
    pages = ("README*.md", "notebooks/*.ipynb", "notebooks/ko/*.ipynb", "locale/**/*.po")
    for path in [path for pattern in pages for path in ROOT.glob(pattern)]:
        text = path.read_text(encoding="utf-8")
        link = r"(google\.com/github|[(=]https://github\.com)/[^/]+/[^/]+/blob/[^/]+(?=/notebooks/)"
        text = re.sub(link, rf"\1/{name[1]}/blob/{tag}", text)
        text = re.sub(r"(git\+https://github\.com)/[\w./-]+@[\w.+-]+", rf"\1/{name[1]}@{tag}", text)
        text = re.sub(r"(?:<!-- )?(\[!\[Open in \w+\]\(.*?\)\]\(.*?\))(?: -->)?", badge, text)
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
