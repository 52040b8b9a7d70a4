"""A Chromium without a window, for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers.debian import install_packages


def chromium() -> str:
    """Return the path of Chromium, which CI installs where it is missing; elsewhere the test is skipped then."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and os.environ.get("CI"):
        install_packages(["chromium"], "Chromium is not installed")
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("tests of pages need Chromium, on the path or named by CHROMIUM")
    return found


@contextmanager
def opened_chromium() -> Iterator[Any]:
    """Open a browser and close it.

    While it is open, an event loop of Playwright runs in this thread, and `asyncio.run` fails in every test after it:
    so no fixture may keep it for longer than a module.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="tests of pages need playwright")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield launched
        launched.close()
