"""The site that `make site` builds from the README, the notebooks as they were last run, and the package.

The pages stay where they are, and hold nothing that is there for the site alone: what the site needs is added here.
A built page loads nothing from another host.
"""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"].rstrip("/")

project = PROJECT["name"]
html_title = "CIFAR-10 with AlexNet in PyTorch"
root_doc = "README"
include_patterns = ["*.md", "notebooks/0*.ipynb", "notebooks/ko/0*.ipynb", "docs/*"]
include_patterns += ["results/README.md", "results/gpu/README.md", "weights/README*.md"]
exclude_patterns = [".*", "build", "datasets", "runs"]  # they hold no pages, only many files to look through
contents = """

```{{toctree}}
:hidden:
:glob:
{}
```
"""
parts = {
    "README": "docs/demo\nnotebooks/*\nCORRECTIONS\nweights/README\nresults/README\nresults/gpu/README\n"
    "docs/package\n한국어 <README.ko>",
    "README.ko": "notebooks/ko/*\nCORRECTIONS.ko\nweights/README.ko",
}

extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links such as README.md#credits
html_math_renderer = "mathml"

default_role = "code"  # what docstrings mean by `x`
add_module_names = False
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}

html_theme = "furo"
html_copy_source = html_show_copyright = html_use_index = html_domain_indices = False
html_favicon = "icon.svg"
html_static_path = ["site.js", "site.css", "demo"]
html_js_files = ["site.js"]
html_css_files = ["site.css"]
html_theme_options = {"source_view_link": f"{REPOSITORY}/blob/main/{{filename}}"}


def complete_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add its table of contents to the first page of a language; in a notebook, say what figures show."""
    if docname in parts:
        source[0] += contents.format(parts[docname])
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if "alt" in cell["metadata"]:
                cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
        source[0] = json.dumps(notebook)


class KeepInSite(SphinxTransform):
    """Links to files and folders that are no pages go to the repository; a picture from another host becomes its text.

    What leads to nothing is left for MyST to warn of.
    """

    default_priority = 800  # before MyST looks for the targets of #links, which would look like folders here

    def apply(self) -> None:
        for link in [node for node in self.document.findall(nodes.Element) if node.get("reftype") == "myst"]:
            path = (ROOT / self.env.docname).parent.joinpath(link["reftarget"]).resolve()
            if link["refdomain"] != "doc" and path.exists() and path.is_relative_to(ROOT):
                address = f"{REPOSITORY}/blob/main/{path.relative_to(ROOT).as_posix()}"
                link.replace_self(nodes.reference("", "", *link.children, refuri=address))
        for image in list(self.document.findall(nodes.image)):
            if "://" in image["uri"]:
                image.replace_self(nodes.Text(image["alt"]))


def name_language(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    context["language"] = "ko" if page.endswith(".ko") or page.startswith("notebooks/ko/") else "en"


def visit_math(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Browsers set MathML themselves: no script, no font to load."""
    translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def add_index(app: Sphinx, error: Exception | None) -> None:
    """A folder's address shows its index.html."""
    if error is None:
        shutil.copyfile(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None))
    app.add_transform(KeepInSite)
    app.connect("source-read", complete_source)
    app.connect("html-page-context", name_language)
    app.connect("build-finished", add_index)
