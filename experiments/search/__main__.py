"""Search in one's own photos by an image, a text, or both.

python -m experiments.search index PHOTOS --model scenes-vit --out photos.index
python -m experiments.search query photos.index --image PHOTOS/cup.jpg --text "in red"
python -m experiments.search serve photos.index
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.mistakes import PlainParser
from experiments.subcommands import Subcommands

STOPPED = "by Ctrl-C; what was committed is kept, and the same command does the rest"
MODEL = "checkpoint, folder of a run, published checkpoint, hf-hub:OWNER/NAME, or the name of a shipped CLIP"


def _index(given: argparse.Namespace) -> None:
    from experiments.search.indexing import index

    index(given.photos, given.model, given.out, given.workers, given.only, given.qdrant, given.device, given.json)


def _merge(given: argparse.Namespace) -> None:
    from experiments.search.indexing import merge

    merge(given.shards, given.out, given.qdrant)


def _query(given: argparse.Namespace) -> None:
    from experiments.search.querying import Asked, query

    asked = Asked(
        given.image, given.text, given.k, given.without, given.balance, given.folder, given.since, given.until,
        given.format, not given.unfolded,
    )  # fmt: skip
    query(given.index, given.model, given.device, asked, given.html, given.json)


def _recall(given: argparse.Namespace) -> None:
    from experiments.search.recall import recall

    recall(given.index, given.queries, given.k, given.seed)


def _serve(given: argparse.Namespace) -> None:
    import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

    # isort: split
    from contextcir.search.searcher import Searcher
    from experiments.search.server import serve

    serve(Searcher.load(given.model, given.index, given.device), host=given.host, port=given.port, token=given.token)


def build_parser() -> Subcommands:
    """Return the parser of the command line."""
    names = ("index", "query", "serve", "merge", "recall")
    words = "Search in one's own photos by an image, a text, or both."
    parser = Subcommands("experiments.search", words, names, positional=("index", "folder"))
    index = parser.add("index", _index, "Make an index of a folder of photos, or bring one up to date.")
    index.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of the photos")
    index.add_argument("--model", required=True, help=MODEL)
    index.add_argument("--out", type=Path, required=True, metavar="INDEX", help="folder of the index")
    index.add_argument("--workers", type=int, help="processes that decode photos (default: by processors)")
    index.add_argument("--only", metavar="I/N", help="shard I of N: photos of other shards are left alone")
    index.add_argument("--qdrant", metavar="URL", help="keep the index on this Qdrant server")
    index.add_argument("--json", type=Path, metavar="FILE", help="write what was done, and every file left out")
    _device(index)

    query = parser.add("query", _query, "Search an index.")
    _of_index(query)
    query.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="may be given again")
    query.add_argument("--text", default="", help="what is to be different")
    query.add_argument("--without", action="append", default=[], metavar="PATH", help="an unwanted photo; again")
    query.add_argument("--folder", help="photos in this folder of the index")
    query.add_argument("--since", metavar="DATE", help="taken on this day, month or year, or later: 2024-05-31")
    query.add_argument("--until", metavar="DATE", help="taken on this day, month or year, or before")
    query.add_argument("--format", action="append", default=[], help="JPEG, PNG, HEIF, ...; may be given again")
    query.add_argument("--k", type=int, default=20, help="results (default: 20)")
    query.add_argument("--balance", type=float, default=0.5, help="0: the image alone, 1: the text alone")
    query.add_argument("--unfolded", action="store_true", help="show photos that look alike one by one")
    query.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails")
    query.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")

    serve = parser.add("serve", _serve, "Serve a page for searching in the browser.")
    _of_index(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    serve.add_argument("--token", help="that clients have to give")

    merge = parser.add("merge", _merge, "Join the indexes of shards.")
    merge.add_argument("shards", nargs="+", type=Path, metavar="SHARD", help="folders of indexes")
    merge.add_argument("--out", type=Path, required=True, metavar="INDEX", help="folder of the index that has all")
    merge.add_argument("--qdrant", metavar="URL", help="keep it on this Qdrant server")

    recall = parser.add("recall", _recall, "Measure how many of the nearest photos a search finds, and how fast.")
    recall.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    recall.add_argument("--queries", type=int, default=200, help="photos drawn as queries (default: 200)")
    recall.add_argument("--k", type=int, default=10, help="nearest photos of each (default: 10)")
    recall.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    return parser


def _of_index(options: PlainParser) -> None:
    options.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    options.add_argument("--model", help=f"{MODEL} (default: the one that made the index)")
    _device(options)


def _device(options: PlainParser) -> None:
    options.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    build_parser().run(args, STOPPED)


if __name__ == "__main__":
    main()
