"""Is a benchmark complete? Its annotations and images against the official numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.base import CompositionDataModule
from data_modules.checking.images import Watch, find_damaged, find_duplicates, list_files, unwatched
from data_modules.circo import CIRCO
from data_modules.cirr import CIRR
from data_modules.fashioniq import FashionIQ
from data_modules.genecis import TASKS, GeneCIS
from data_modules.lasco import LaSCo
from data_modules.loading.images import ImageStore
from data_modules.manifest import Manifest
from data_modules.reading.annotations import read_around
from data_modules.records import Evaluation, TrainingSet
from data_modules.scenes import Scenes
from data_modules.scenes.writer import STATE

# Official numbers of each split. A split of triplets is one that is trained on; "images" are all that it lists.
EXPECTED: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "cirr": {
        "train": {"triplets": 28_225, "images": 16_939},
        "val": {"queries": 4_181, "gallery": 2_297},
        "test1": {"queries": 4_148, "gallery": 2_315},
    },
    "circo": {
        "val": {"queries": 220, "gallery": 123_403},
        "test": {"queries": 800, "gallery": 123_403},
    },
    "fashioniq": {
        "train_dress": {"queries": 5_985, "gallery": 11_452},
        "train_shirt": {"queries": 5_988, "gallery": 19_036},
        "train_toptee": {"queries": 6_027, "gallery": 16_121},
        "val_dress": {"queries": 2_017, "gallery": 3_817},
        "val_shirt": {"queries": 2_038, "gallery": 6_346},
        "val_toptee": {"queries": 1_961, "gallery": 5_373},
        "test_dress": {"queries": 2_024, "gallery": 3_818},
        "test_shirt": {"queries": 2_038, "gallery": 6_346},
        "test_toptee": {"queries": 2_056, "gallery": 5_374},
    },
    "lasco": {"train": {}, "val": {"gallery": 39_826}},
    "genecis": {task: {"queries": 1_960} if task.endswith("_object") else {} for task in TASKS},
    "scenes": {split: {} for split in ("train", "val", "test", "test_unseen", "circo_val", "circo_test")},
    "manifest": {},
}
# Triplets and queries of all splits together, where the numbers of single splits are not stated.
TOTALS: Mapping[str, int] = {"lasco": 389_305, "genecis": 8_032}

MODULES: Mapping[str, type[CompositionDataModule]] = {
    "cirr": CIRR,
    "circo": CIRCO,
    "fashioniq": FashionIQ,
    "lasco": LaSCo,
    "genecis": GeneCIS,
    "scenes": Scenes,
    "manifest": Manifest,
}


class Problem(NamedTuple):
    """Something that is wrong. ``kind``: layout, file, record, count, missing, damaged or duplicate."""

    kind: str
    split: str
    message: str


@dataclass
class Report:
    """What was found. ``counts`` and ``expected``: number of queries, gallery images and so on, by split.

    ``images``: how many image files there are. ``decoded``: whether all of them were read to their end.
    """

    benchmark: str
    root: str
    decoded: bool
    images: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, message: object, split: str = "") -> None:
        """Put a problem on the list."""
        self.problems.append(Problem(kind, split, str(message)))

    def of_kind(self, kind: str) -> list[Problem]:
        """Return the problems of one kind."""
        return [problem for problem in self.problems if problem.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "benchmark": self.benchmark,
            "root": self.root,
            "ok": not self.problems,
            "images": self.images,
            "decoded": self.decoded,
            "splits": {
                split: {"found": found, "expected": self.expected.get(split, {})}
                for split, found in self.counts.items()
            },
            "problems": [problem._asdict() for problem in self.problems],
        }


def inspect(
    benchmark: str,
    root: Path,
    splits: Sequence[str] = (),
    decode: bool = True,
    workers: int = 1,
    watch: Watch = unwatched,
    **options: Any,
) -> Report:
    """Read a benchmark as training and evaluation would, and list everything that is wrong with it.

    Args:
        benchmark: one of `MODULES`.
        root: its folder.
        splits: which ones; none for all.
        decode: load every image to its end; without it only their existence and sizes are looked at, and of files of
            equal size the bytes.
        workers: processes that read images.
        watch: shows how far it is.
        options: further arguments of the data module.
    """
    module = MODULES[benchmark](root, **options)
    report = Report(benchmark, str(root), decode)
    if not module.root.is_dir():
        report.add("layout", f"no folder {module.root}: set --root to the folder of the benchmark")
        return report
    chosen = list(dict.fromkeys(splits)) or list(EXPECTED[benchmark])
    if not chosen and isinstance(module, Manifest):
        chosen = read_around(module.list_splits, partial(report.add, split="")) or []
    expected = {**EXPECTED[benchmark], **(_expected_scenes(module.root) if benchmark == "scenes" else {})}
    stores: dict[str, ImageStore] = {}
    for split in chosen:
        read = read_around(partial(read_split, module, split), partial(report.add, split=split))
        if read is not None:
            report.counts[split] = counts(read)
            report.expected[split] = dict(expected.get(split, {}))
            _compare(report, split)
            try:
                stores[split] = module._images(split, read.image_paths)
            except FileNotFoundError as error:
                report.add("layout", error, split)
    total = sum(found.get("triplets", 0) + found.get("queries", 0) for found in report.counts.values())
    if benchmark in TOTALS and set(report.counts) == set(EXPECTED[benchmark]) and total != TOTALS[benchmark]:
        message = f"expected {TOTALS[benchmark]:,} triplets and queries in {', '.join(chosen)}, found {total:,}"
        report.add("count", message)
    _inspect_images(report, stores, workers, watch)
    return report


def read_split(module: CompositionDataModule, split: str) -> TrainingSet | Evaluation:
    """Return the triplets of a module's training split, or the protocol and queries of any other."""
    return module.read_training() if split == getattr(module, "train_split", None) else module.read_evaluation(split)


def counts(read: TrainingSet | Evaluation) -> dict[str, int]:
    """Return what can be counted before any image is looked at."""
    if isinstance(read, TrainingSet):
        return {"triplets": len(read.records), "images": len(read.image_paths)}
    return {"queries": len(read.protocol.query_ids), "gallery": len(read.protocol.gallery)}


def _compare(report: Report, split: str) -> None:
    """Put numbers that differ from the official ones on the list; broken records, which are on it, count as there."""
    broken = sum(problem.split == split for problem in report.of_kind("record"))
    for what, number in report.expected[split].items():
        found = report.counts[split][what]
        if found != number and not (what in ("triplets", "queries") and found + broken == number):
            report.add("count", f"expected {number:,} {what}, found {found:,}", split)


def _expected_scenes(root: Path) -> dict[str, dict[str, int]]:
    """Return the numbers that follow from the size that was drawn."""
    try:
        size = json.loads((root / STATE).read_text(encoding="utf-8"))
        references, shared = int(size["references"]), int(size["shared_references"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    plain = {"queries": 4 * references, "gallery": 21 * references}
    return {
        **dict.fromkeys(("val", "test", "test_unseen"), plain),
        **{split: {"queries": shared} for split in ("circo_val", "circo_test")},
    }


def _inspect_images(report: Report, stores: Mapping[str, ImageStore], workers: int, watch: Watch) -> None:
    found, missing = list_files(stores)
    sizes = {file.path: file.size for file in found}
    report.images = len(sizes)
    split_of = {file.path: file.store for file in reversed(found)}
    for file in missing:
        report.add("missing", f"image {file.name}: no file {file.path}", file.store)
    empty = [file for file in found if file.size == 0]
    for file in empty:
        report.add("damaged", f"image {file.name}: {file.path} is empty", file.store)
    if report.decoded:
        full = [file for file in found if file.size]
        for file, complaint in find_damaged(stores, full, workers, watch).items():
            report.add("damaged", complaint, file.store)
    paths = [path for path, size in sizes.items() if size]
    for group in find_duplicates(paths, sizes, workers, watch):
        report.add("duplicate", f"the same bytes: {' = '.join(map(str, group))}", split_of[group[0]])
