"""What the browser tests share. `pytest` alone does not collect them; `pytest browser` does."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


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
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
