"""Write the repository's address and version, as pyproject.toml has them, into badges and notebooks.

    python scripts/set_repository.py        after one of them was changed there, as in a fork

A badge opens its notebook in Colab as it is at the tag v<version>, and the notebook's first cell installs the package
of the same tag: the two never differ. The workflow makes the tag, once the tests have passed on main.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", project["urls"]["Repository"])
    if name is None:
        raise SystemExit(
            f"pyproject.toml: Repository is {project['urls']['Repository']!r}, not https://github.com/<owner>/<name>."
        )
    tag = f"v{project['version']}"
    for path in [*ROOT.glob("README*.md"), *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/ko/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(colab\.research\.google\.com/github)/.+?/blob/[^/]+", rf"\1/{name[1]}/blob/{tag}", text)
        text = re.sub(r"(git\+https://github\.com)/[\w./-]+@[\w.+-]+", rf"\1/{name[1]}@{tag}", text)
        text = re.sub(
            r"(\(https://github\.com)/[^/]+/[^/]+/blob/[^/]+(/notebooks/)", rf"\1/{name[1]}/blob/{tag}\2", text
        )
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
