"""The site as a reader gets it: served by a plain file server, opened in Chromium, at two widths, light and dark."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [
    path.relative_to(ROOT).with_suffix(".html").as_posix() for path in sorted((ROOT / "notebooks").glob("**/0*.ipynb"))
]
PAGES = [
    "",  # index.html
    "README.ko.html",
    "CORRECTIONS.html",
    "CORRECTIONS.ko.html",
    "weights/README.html",
    "weights/README.ko.html",
    "results/README.html",
    "results/gpu/README.html",
    "docs/demo.html",
    "docs/package.html",
    "search.html?q=convolution",
    *NOTEBOOKS,
]
WIDTHS = [1280, 390]  # CSS pixels: a laptop, a phone


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # every visit is a first one: no answer is 304
        super().end_headers()


@pytest.fixture(scope="session")
def site(site_folder: Path) -> Iterator[str]:
    """Address of the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=site_folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=WIDTHS, ids=str)
def page(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page that fails the test at its end if anything failed in it, or was asked of another host."""
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": request.param, "height": 800}, base_url=site)
    page.on("console", lambda message: message.type == "error" and troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("requestfailed", lambda asked: troubles.append(f"failed: {asked.url}"))
    page.on("response", lambda answer: answer.ok or troubles.append(f"{answer.status}: {answer.url}"))
    own = (site, f"blob:{site}")  # a blob: what a page made itself
    page.on("request", lambda asked: asked.url.startswith(own) or troubles.append(f"another host: {asked.url}"))
    yield page
    page.close()
    assert not troubles


def visit(page: Page, name: str) -> None:
    """Open a page of the site, with all that it loads: what still loads when a page is left counts as failed."""
    page.goto(name, wait_until="networkidle")


def findings(page: Page, **options: object) -> list[tuple[str, str, str]]:
    """What axe-core calls serious or critical: its rule, the place, and what to do about it."""
    violations = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    serious = [rule for rule in violations if rule["impact"] in ("serious", "critical")]
    return [(rule["id"], node["html"][:200], node["failureSummary"]) for rule in serious for node in rule["nodes"]]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_all_it_has_and_fits_its_width(page: Page, name: str) -> None:
    visit(page, name)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")

    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    pictures = page.locator("img").evaluate_all("all => all.map(one => [one.src, one.alt.trim(), one.naturalWidth])")
    assert [picture for picture in pictures if not all(picture)] == []
    formulas = [formula.bounding_box() for formula in page.locator("math").all()]
    assert [box for box in formulas if not box or min(box["width"], box["height"]) < 4] == []
    assert findings(page) == []
    page.emulate_media(color_scheme="dark")
    assert findings(page, runOnly=["color-contrast"]) == []  # the rest is as it was


def test_notebooks_keep_their_figures_and_formulas(page: Page) -> None:
    """The test above would pass with none."""
    for name in NOTEBOOKS:
        visit(page, name)
        assert page.locator(".cell_output img").count() > 0, name
    visit(page, "notebooks/03_model_shapes.html")
    assert page.locator("math mfrac").count() > 0


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("stratified", "notebooks/01_data.html"),
        ("orthogonalize", "docs/package.html"),
        ("층화", "notebooks/ko/01_data.html"),
    ],
)
def test_search_finds(page: Page, word: str, found: str) -> None:
    visit(page, f"search.html?q={word}")
    expect(page.locator(f"#search-results a[href^='{found}']").first).to_be_visible()
