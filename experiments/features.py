"""Files of features: embeddings made by any program, checked before they are evaluated.

python -m experiments.features template --benchmark cirr --root datasets/CIRR --out cirr_val.jsonl
python -m experiments.features check cirr_val.safetensors --benchmark cirr --root datasets/CIRR
python -m experiments.features make --config scenes --embedder OpenCLIPEmbedder --embedder.model scenes-vit --out FILE

`template` lists what has to be embedded: a JSON object a line, of an image of the gallery or of a query. `make` embeds
it with one of this project's embedders, and `check` says what is wrong with a file. `experiments.evaluate` takes the
file as `--embedder FeaturesFile --embedder.file FILE`.
"""

import json
import sys
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from contextcir.checks import whole
from contextcir.embedders.base import Embedder, EmbeddingSource
from contextcir.embedders.features_file import FeaturesFile, query_id, write_features
from contextcir.embedders.store import EmbeddingStore
from contextcir.errors import InputError, one_line, shown
from contextcir.evaluation.protocol import Protocol
from contextcir.files import write_text, writing
from data_modules.base import CompositionDataModule
from experiments.check_data import show_progress
from experiments.evaluate.data import as_it_is
from experiments.evaluate.rows import EmbedderRows
from experiments.evaluate.settings import add_configs, build, embeddings_folder, make_parser, typed
from experiments.failures import one_line_errors
from experiments.outputs import output_file
from experiments.record import claim_run_id
from experiments.start import quiet

STAGES = {"validate": "val", "test": "test", "predict": "predict"}
BENCHMARKS = {
    "cirr": "CIRR", "circo": "CIRCO", "fashioniq": "FashionIQ", "lasco": "LaSCo", "genecis": "GeneCIS",
    "scenes": "Scenes", "manifest": "Manifest",
}  # fmt: skip
LISTED = 20  # problems that are printed


def build_parser(command: str) -> ArgumentParser:
    """Return the parser of a command."""
    parser = make_parser(f"python -m experiments.features {command}", (__doc__ or "").partition("\n")[0])
    if command == "check":
        parser.add_argument("file", type=Path, help="file of features")
    add_configs(parser)
    parser.add_argument("--stage", type=Literal[(*STAGES,)], default="validate", help="whose splits")
    parser.add_argument("--data", type=LightningDataModule, required=True, help="as for experiments.run")
    if command != "check":
        parser.add_argument("--out", type=Path, required=True, help="file to write")
    if command == "make":
        parser.add_argument("--embedder", type=EmbeddingSource, required=True, help="as for experiments.evaluate")
        parser.add_argument("--unimodal", type=bool, default=True, help="image and text of queries alone, too")
        parser.add_argument("--store", type=Path | None, default=None, help="folder of embeddings")
        parser.add_argument("--workers", type=int, default=4, help="threads that decode images")
    for name in ("embedder", "unimodal", "store", "workers", "reranking", "name"):
        if not any(action.dest == name for action in parser._actions):
            parser.add_argument(f"--{name}", type=_ignored, default=None, help=SUPPRESS)
    return parser


def _ignored(value: Any) -> None:
    """Return nothing: configs of embedders may be given, and only `make` reads them."""


def template(data: CompositionDataModule, stage: str) -> Iterator[dict[str, Any]]:
    """Yield what has to be embedded; an image that several splits name comes once.

    Raises:
        InputError: if two splits call different images by one name.
    """
    seen: dict[str, str] = {}
    for position, protocol in enumerate(data.protocols(stage)):
        records = data.query_records(stage, position)
        names = dict.fromkeys([*protocol.gallery, *(record.reference for record in records)])
        places = data.image_places(stage, position, names)

        def where(name: str, places: Any = places) -> dict[str, Any]:
            box = places[name].box
            return {"image": str(places[name].file), **({} if box is None else {"box": list(box)})}

        for name in protocol.gallery:
            place = json.dumps(where(name))
            if seen.setdefault(name, place) != place:
                raise InputError(f"two splits call different images {shown(name)}: take one split at a time")
            yield {"kind": "gallery", "id": name, **where(name)}
        for place_of, record in enumerate(records):
            view, query = divmod(place_of, len(protocol.query_ids))
            identity = query_id(protocol, protocol.query_ids[query], view)
            yield {"kind": "query", "id": identity, **where(record.reference), "text": record.caption}


def problems(file: FeaturesFile, protocols: Sequence[Protocol]) -> list[str]:
    """Return what is wrong with a file for some protocols, one line each."""
    images = dict.fromkeys(name for protocol in protocols for name in protocol.gallery)
    queries = dict.fromkeys(
        query_id(protocol, query, view)
        for protocol in protocols
        for view in range(protocol.query_views)
        for query in protocol.query_ids
    )
    found = [problem for kind in file.tensors for problem in file.problems(kind)]
    for kind, wanted in (("gallery", images), ("query", queries)):
        have = set(file.ids_of(kind))
        lacking = [name for name in wanted if name not in have]
        extra = [name for name in dict.fromkeys(file.ids_of(kind)) if name not in wanted]
        if lacking:
            found.append(
                f"{kind}: {len(lacking):,} of {len(wanted):,} ids are missing, the first is {shown(lacking[0])}"
            )
        if extra:
            found.append(f"{kind}: {len(extra):,} ids are not of these splits, the first is {shown(extra[0])}")
    return found


def check(path: Path, data: CompositionDataModule, stage: str) -> int:
    """Print what is wrong with a file; return the exit status."""
    file, protocols = FeaturesFile(path), data.protocols(stage)
    found = problems(file, protocols)
    for problem in found[:LISTED]:
        print(one_line(problem))
    splits = ", ".join(f"{protocol.benchmark} {protocol.split}" for protocol in protocols)
    if found:
        print(f"error: {len(found)} problem{'s' if found[1:] else ''} of {path} for {splits}", file=sys.stderr)
        return 1
    of = f"{len(file.ids['gallery']):,} images, {len(file.ids['query']):,} queries"
    kind = str(file.tensors["gallery"].dtype).removeprefix("torch.")
    print(f"no problem found: {file.name}, {of} of {splits}, {file.dimension} numbers each, {kind}")
    return 0


def make(
    data: CompositionDataModule, stage: str, embedder: EmbeddingSource, out: Path, store: Path, parts: Sequence[str],
    workers: int,
) -> None:  # fmt: skip
    """Embed a benchmark, and write the file."""
    if not isinstance(embedder, Embedder):
        raise InputError("expected a model, got a file of features", setting="embedder")
    data.preprocess = as_it_is
    for _ in template(data, stage):  # a file has one row of each name
        pass
    gallery: dict[str, torch.Tensor] = {}
    queries: dict[str, list[torch.Tensor]] = {}
    ids: list[str] = []
    known = EmbeddingStore(store)
    for position, protocol in enumerate(data.protocols(stage)):
        rows = EmbedderRows(embedder, known, data, stage, position, workers, parts, lambda: None)
        count, batch = protocol.query_views * len(protocol.query_ids), embedder.batch
        title = f"{protocol.benchmark} {protocol.split}"
        starts = range(0, len(protocol.gallery), batch)
        for start in show_progress(starts, len(starts), f"{title}, gallery"):
            part = range(start, min(start + batch, len(protocol.gallery)))
            gallery |= dict(zip((protocol.gallery[place] for place in part), rows.gallery(part), strict=True))
        starts = range(0, count, batch)
        for start in show_progress(starts, len(starts), f"{title}, queries"):
            part = range(start, min(start + batch, count))
            queries.setdefault("query", []).append(rows.queries(part))
            for name in rows.parts:
                queries.setdefault(name, []).append(rows.part(name, part))
        views = range(protocol.query_views)
        ids += [query_id(protocol, query, view) for view in views for query in protocol.query_ids]
    joined: dict[str, Any] = {kind: torch.cat(parts) for kind, parts in queries.items()}
    with writing(out, "out"):
        rows_of = torch.stack(list(gallery.values()))
        write_features(out, embedder.describe(), (list(gallery), rows_of), {"ids": ids, **joined})
    print(f"{out}: {len(gallery):,} images, {len(ids):,} queries of {embedder.name}")


def with_benchmark(args: Sequence[str]) -> list[str]:
    """Return arguments in which ``--benchmark``, ``--root`` and ``--split`` are those of a data module.

    Raises:
        InputError: if there is no such benchmark.
    """
    short = {"--benchmark": "--data", "--root": "--data.root", "--split": "--data.val_splits"}
    done: list[str] = []
    taken = iter(args)
    for argument in taken:
        flag, equals, value = argument.partition("=")
        if flag not in short:
            done.append(argument)
            continue
        value = value if equals else next(taken, "")
        if flag == "--benchmark":
            if value not in BENCHMARKS:
                raise InputError(f"expected one of {', '.join(BENCHMARKS)}, got {shown(value)}", setting="benchmark")
            value = BENCHMARKS[value]
        if flag == "--split":
            value = json.dumps(value.split(","))
        done.append(f"{short[flag]}={value}")
    return done


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors("by Ctrl-C; embeddings are kept, and the same command goes on"):
        claim_run_id()
        quiet()
        given = with_benchmark(typed(args))
        command = given[0] if given else ""
        if command in ("-h", "--help"):
            print((__doc__ or "").strip())
            return
        if command not in ("template", "check", "make"):
            raise InputError(f"expected template, check or make, got {shown(command)}")
        parser = build_parser(command)
        objects = build(parser, parser.parse_args(given[1:])).objects
        data, stage = objects["data"], STAGES[objects["stage"]]
        if not isinstance(data, CompositionDataModule):
            raise InputError(f"expected a benchmark, got {type(data).__name__}", setting="data")
        data.reader.check_root()
        if command == "check":
            raise SystemExit(check(objects["file"], data, stage))
        out = objects["out"]
        output_file(out, "out")
        if command == "template":
            lines = [json.dumps(line, ensure_ascii=False) for line in template(data, stage)]
            with writing(out, "out"):
                write_text(out, "\n".join(lines) + "\n")
            print(f"{out}: {len(lines):,} lines")
            return
        store = objects["store"] or embeddings_folder()
        parts = ("image", "text") if objects["unimodal"] else ()
        workers = whole(objects["workers"], 1, "workers", 512)
        make(data, stage, objects["embedder"], out, store.expanduser(), parts, workers)


if __name__ == "__main__":
    main()
