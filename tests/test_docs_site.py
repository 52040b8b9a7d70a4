"""The documentation as a site: it builds, its links lead somewhere, and no public name is missing."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.paths import PROJECT

PACKAGES = ("fusion", "losses", "encoders", "embedders", "training", "synthesis.mining")
PUBLIC = ("contextcir", *(f"contextcir.{name}" for name in PACKAGES), "data_modules", "callbacks")


class Page(HTMLParser):
    """Ids of a page, the addresses that it links to, and those that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        elif tag in ("img", "script", "source", "iframe"):
            self.loaded += [given["src"]] if "src" in given else []
        elif tag == "link" and given.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.loaded += [given["href"]] if "href" in given else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    for name in ("docs", "contextcir", "data_modules", "callbacks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(PROJECT / "zensical.toml", folder)
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


def target(page: Path, site: Path, address: str) -> Path:
    """Return the file that an address on a page leads to."""
    path = unquote(urlsplit(address).path)
    found = page if not path else site / path.lstrip("/") if path.startswith("/") else (page.parent / path).resolve()
    return found / "index.html" if found.is_dir() else found


def test_every_link_leads_to_a_page_of_the_site_and_to_a_heading_there(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            found = target(path, site, address)
            there = found.exists() and (not parts.fragment or found not in pages or parts.fragment in pages[found].ids)
            if not there and parts.fragment != "__skip":
                broken.append(f"{path.relative_to(site)}: {address}")
    assert not broken and len(pages) > 25


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [address for address in page.loaded if urlsplit(address).netloc], path
        missing = [address for address in page.loaded if not target(path, site, address).exists()]
        assert not missing, (path, missing)


def test_every_document_is_in_the_navigation() -> None:
    told = tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    written = {path.relative_to(PROJECT / "docs").as_posix() for path in (PROJECT / "docs").rglob("*.md")}

    def named(part: object) -> set[str]:
        if isinstance(part, str):
            return {part}
        return set().union(*map(named, part.values() if isinstance(part, dict) else part))

    assert named(told) == written


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_its_place_in_the_reference(package: str, pages: dict[Path, Page], site: Path) -> None:
    known = set().union(*(page.ids for path, page in pages.items() if "reference" in path.parts))
    module = importlib.import_module(package)
    for name in module.__all__:
        if name != "__version__":
            thing = getattr(module, name)
            assert f"{thing.__module__}.{name}" in known, name
