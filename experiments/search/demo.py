"""The search page on drawn scenes: with the model of the newest `make demo`, or with the small CLIP alone.

python -m experiments.search.demo [--model runs/demo/ID] [--port 7860]
"""

import http.client
import json
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from contextcir import assets
from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import read_json
from contextcir.search.searcher import Searcher
from contextcir.training.models import best_checkpoint
from data_modules.scenes.writer import Size, write_scenes
from experiments.command import command
from experiments.outputs import output_folder, runs_folder
from experiments.search.server import running, serve

SHOWN = 5  # queries that are printed
DEPTH = 10


@dataclass(frozen=True)
class Try:
    """A query of the benchmark: the reference and the image that is looked for, as files, and the text."""

    reference: str
    text: str
    target: str


def search_demo(
    model: str | None = None,
    root: Path = Path("datasets/scenes"),
    size: Size = Size(),  # noqa: B008  (immutable)
    out: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = True,
    once: bool = False,
) -> None:
    """Index the images of a split of scenes, print queries to try, and serve the page.

    Args:
        model: As `experiments.search index` takes it; by default the newest run of `make demo`, else scenes-vit.
        root: Of the benchmark; drawn if it does not exist.
        size: Of the benchmark.
        out: Folder of the index; runs/search-demo by default.
        host: Address to listen on.
        port: 0 takes a free one.
        browser: Open the page in a browser.
        once: Answer one query over HTTP, print the answer and stop.
    """
    out = out or runs_folder("search-demo")
    output_folder(out, "out")
    output_folder(root, "root")
    whole(port, 0, "port", 65535)
    chosen = model or newest_run() or assets.EMBEDDED
    try:
        write_scenes(root, 0, size)
    except InputError as error:
        raise error.relocate("data.root", "root") from None
    searcher = Searcher.load(chosen)
    photos = root / "img_raw" / "val"
    report = searcher.index_folder(photos, out / f"index-{searcher.described['weights'][:12]}")
    print(f"{chosen}: {searcher.index.count():,} scenes of {photos}, {report.encoded:,} of them encoded now\n")
    tries = first_queries(root)
    print("\n".join(things_to_try(searcher, photos, tries)), flush=True)
    if once:
        with running(searcher, host) as address:
            print(json.dumps(asked(address, tries[0])))
        return

    def ready(address: str) -> None:
        print(f"\nopen {address} (Ctrl-C stops)", flush=True)
        if browser:
            with suppress(webbrowser.Error):  # a machine without one
                webbrowser.open(address)

    serve(searcher, host, port, ready=ready)


def newest_run(folder: Path | None = None) -> str | None:
    """Return the folder of the newest run of `make demo` that has a checkpoint; None if there is none."""
    runs = [path for path in (folder or runs_folder("demo")).glob("*") if path.is_dir()]
    for run in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(InputError):
            best_checkpoint(run)
            return str(run)
    return None


def first_queries(root: Path) -> list[Try]:
    """Return the first query of each reference of the split val, in the order of its annotation file."""
    records = read_json(root / "captions" / "cap.scenes.val.json")
    first: dict[str, Try] = {}
    for record in records:
        reference, target = (f"{record[name]}.jpg" for name in ("reference", "target_hard"))
        first.setdefault(reference, Try(reference, record["caption"], target))
    return list(first.values())


def things_to_try(searcher: Searcher, photos: Path, tries: Sequence[Try]) -> list[str]:
    """Return the first queries as a table in Markdown with the rank of what they look for, and how often it is found.

    They stand in the order of the benchmark, and are not chosen by how well they end.
    """
    ranks = [rank_of(searcher, photos, one) for one in tries]
    lines = ["| reference | text | looked for | found at rank |", "| --- | --- | --- | ---: |"]
    for one, rank in zip(tries[:SHOWN], ranks, strict=False):
        lines.append(f"| {one.reference} | {one.text} | {one.target} | {rank or f'beyond {DEPTH}'} |")

    def within(count: int) -> int:
        return sum(rank is not None and rank <= count for rank in ranks)

    rule = f"first of each reference of val, among {searcher.index.count():,} images"
    found = f"{within(1)} at rank 1, {within(DEPTH)} within {DEPTH}"
    return [*lines, "", f"Of {len(ranks)} such queries ({rule}): {found}."]


def rank_of(searcher: Searcher, photos: Path, one: Try) -> int | None:
    """Return the rank of what a query looks for, the reference left out; None beyond `DEPTH`."""
    found = searcher.search(photos / one.reference, one.text, k=DEPTH + 1, fold=False)
    paths = [result.photo.path for result in found.results if result.photo.path != one.reference][:DEPTH]
    return paths.index(one.target) + 1 if one.target in paths else None


def asked(address: str, one: Try, count: int = 3) -> dict[str, Any]:
    """Ask a server a query, and return its answer without phrases and thumbnails.

    Raises:
        InputError: if it answers with an error.
    """
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=60)
    form = urlencode({"references": one.reference, "text": one.text, "k": count})
    connection.request("POST", "/api/search", form, {"content-type": "application/x-www-form-urlencoded"})
    with connection.getresponse() as response:
        answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        raise InputError(f"the server answers with {response.status}: {answer.get('error')}")
    results = [{name: result[name] for name in ("rank", "score", "path")} for result in answer["results"]]
    return {"reference": one.reference, "text": answer["text"], "results": results}


def main() -> None:
    """Parse the command line."""
    command(search_demo)


if __name__ == "__main__":
    main()
