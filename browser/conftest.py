"""What the browser tests share. `pytest` alone does not collect them; `pytest browser` does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a screen: the one that CHROMIUM names, or the first that is on the PATH."""
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else ["chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.exit(
            f"No browser: there is no {' and no '.join(names)} here. Install Chromium (Debian, Ubuntu: apt-get install "
            "chromium), or set CHROMIUM to its path.",
            returncode=1,
        )
    with sync_playwright() as playwright:
        camera = "--use-fake-device-for-media-stream"  # for pages that are allowed to use one
        browser = playwright.chromium.launch(executable_path=path, args=[camera])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it without a run; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    network = [sys.executable, "scripts/export_network.py", folder / "site/_static/weights.js"]
    pages = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", folder / "site"]
    for command in (network, [*pages, "-d", folder / "doctrees"]):
        build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert build.returncode == 0, build.stderr
    return folder / "site"
