"""A searcher, a photo and a browser for the tests of the search page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chromium import opened_chromium
from tests.search_page.fake import FakeSearcher, drawn, gallery, jpeg


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    with opened_chromium() as opened:
        yield opened


@pytest.fixture
def searcher(tmp_path: Path) -> FakeSearcher:
    return FakeSearcher(tmp_path / "photos", gallery())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "mine.jpg").write_bytes(jpeg(drawn("red", (400, 300))))
    return tmp_path / "mine.jpg"


@pytest.fixture
def opened(browser: Any, searcher: FakeSearcher) -> Iterator[Callable[..., Any]]:
    """Return what opens the page; nothing wrong may have happened on any of them."""
    from experiments.search.server import running
    from tests.search_page.browsing import Watched

    pages: list[Watched] = []
    with running(searcher) as address:

        def open_page(**options: Any) -> Watched:
            pages.append(Watched(browser, address, **options))
            return pages[-1]

        yield open_page
        for watched in pages:
            watched.context.close()
    assert pages and [wrong for watched in pages for wrong in watched.wrong] == []


@pytest.fixture
def client(searcher: FakeSearcher) -> Iterator[Any]:
    """A client of the application, which needs no socket."""
    testing = pytest.importorskip("fastapi.testclient", reason="the page needs FastAPI, of the extra `search`")
    from experiments.search.server import create_app

    with testing.TestClient(create_app(searcher), base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as c:
        yield c
