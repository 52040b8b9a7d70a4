"""Write the scenes benchmark to disk: ordinary image files and annotation files in the layouts of CIRR and CIRCO."""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.files import read_json, write_text, writing
from contextcir.processors import leave_interrupts_to_parent
from data_modules.scenes import STATE, kinds_path
from data_modules.scenes.records import Base, draw_base, draw_shared_base
from data_modules.scenes.render import render

# Of generator and renderer. Version 2 holds the files of version 1, unchanged, and adds the hard split and the kinds of
# queries; another one is needed whenever the same seed gives other images or texts.
VERSIONS = (1, 2)
VERSION = VERSIONS[-1]
SPLITS = ("train", "val", "test", "test_unseen")
ADDED_SPLITS = ("hard",)  # by version 2
MOST, MOST_SHARED = 1_000_000, 10_000  # references of a split; more shared ones would have the ids of another split
COCO = Path("circo") / "COCO2017_unlabeled"
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Size:
    """How much to draw.

    Args:
        train_references: References of the training split: about 8.7 triplets and 11 images each.
        references: References of val, of test, of test_unseen and of hard: 4 queries and 21 images each.
        shared_references: References of the two CIRCO-style splits: 1 query and 6 to 9 images each.
    """

    train_references: int = 2500
    references: int = 150
    shared_references: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole(value, 1, f"size.{name}", MOST_SHARED if name == "shared_references" else MOST)


class Task(NamedTuple):
    """One base to be drawn. ``kinds``: whether to find out what its queries need."""

    root: str
    seed: int
    split: str
    number: int
    kinds: bool = False


def _save_new(base: Base, folder: Callable[[str], Path]) -> int:
    """Draw the pictures of a base that are not on disk yet; each file appears complete or not at all."""
    drawn = 0
    for picture in base.pictures:
        path = folder(picture.name)
        if path.exists():
            continue
        placed, rng = picture.place()
        staging = path.with_suffix(f".{os.getpid()}.part")
        image = Image.fromarray(render(picture.scene, placed, rng))
        try:
            image.save(staging, "JPEG", quality=92, subsampling=0)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)  # where the disk is full
        drawn += 1
    return drawn


def _write_base(task: Task) -> tuple[Base, list[str]]:
    """Draw one base and save its images; return the kinds of its queries with it, where they are asked for."""
    root, seed, split, number, kinds = task
    base = draw_base(seed, split, number)
    _save_new(base, lambda name: Path(root) / image_path(name))
    return base, base.kinds() if kinds else []


def _write_shared_base(task: Task) -> Base:
    root, seed, split, number, _ = task
    base = draw_shared_base(seed, split, number)
    _save_new(base, lambda name: Path(root) / COCO / "unlabeled2017" / coco_name(split, number, int(name)))
    return base


def image_path(name: str) -> str:
    """Return the path of an image below the root; train is split over numbered folders, as in CIRR."""
    split, number, _ = name.split("-")
    folder = f"{split}/{int(number) % 100}" if split == "train" else split
    return f"img_raw/{folder}/{name}.jpg"


def coco_id(split: str, number: int, index: int) -> int:
    """Return the integer id of an image of the CIRCO-style splits."""
    return {"val": 1, "test": 2}[split] * 1_000_000 + number * 100 + index


def coco_name(split: str, number: int, index: int) -> str:
    """Return the file name of an image of the CIRCO-style splits, as COCO names its files."""
    return f"{coco_id(split, number, index):012d}.jpg"


def _write_json(path: Path, content: object, indent: int | None = None) -> None:
    write_text(path, json.dumps(content, indent=indent))


def _bases(
    write: Callable[[Task], Drawn], tasks: list[Task], workers: int, progress: Progress, title: str
) -> Iterator[Drawn]:
    """Yield the bases in order, drawn by worker processes."""
    bar = progress.add_task(title, total=len(tasks))
    # fork: the workers need nothing but numpy and Pillow
    with get_context("fork").Pool(workers, leave_interrupts_to_parent) as pool:
        for base in pool.imap(write, tasks, chunksize=8):
            progress.advance(bar)
            yield base


def _write_split(root: Path, split: str, bases: Iterable[tuple[Base, list[str]]]) -> None:
    """Write the annotation files of a split that are not there yet."""
    names, records, kinds = {}, [], []
    for base, found in bases:
        names |= {picture.name: "./" + image_path(picture.name).removeprefix("img_raw/") for picture in base.pictures}
        records += [{"pairid": len(records) + i, **record} for i, record in enumerate(base.records)]
        kinds += [{"pairid": len(kinds) + i, "answerable": kind} for i, kind in enumerate(found)]
    files = {
        root / "captions" / f"cap.scenes.{split}.json": records,
        root / "image_splits" / f"split.scenes.{split}.json": names,
        kinds_path(root, split): kinds,
    }
    for path, content in files.items():
        if content and not path.exists():
            _write_json(path, content)


def _write_shared_split(root: Path, split: str, bases: Iterable[Base]) -> list[dict]:
    """Write the queries of a CIRCO-style split, and return the entries of its images."""
    images, records = [], []
    for number, base in enumerate(bases):
        names = [coco_name(split, number, index) for index in range(len(base.pictures))]
        images += [
            {"id": coco_id(split, number, i), "file_name": name, "width": 96, "height": 96}
            for i, name in enumerate(names)
        ]
        record = base.records[0]
        for key in ("reference_img_id", "target_img_id"):
            record[key] = coco_id(split, number, record[key])
        record["gt_img_ids"] = [coco_id(split, number, index) for index in record["gt_img_ids"]]
        records.append({**record, "id": number})
    _write_json(root / "circo" / "annotations" / f"{split}.json", records)
    return images


def is_complete(root: Path, seed: int, size: Size, version: int = VERSION) -> bool:
    """Return whether ``root`` holds this benchmark, complete; a later version holds what an earlier one does.

    Raises:
        InputError: if it holds another one.
    """
    return version <= _complete_version(root, seed, size)


def _complete_version(root: Path, seed: int, size: Size) -> int:
    """Return which version ``root`` holds, complete; 0 for none.

    Raises:
        InputError: if it holds another benchmark.
    """
    wanted = {"seed": seed, **asdict(size)}
    whole(seed, 0, "data.seed")
    path = root / STATE
    if not os.path.lexists(path):
        with writing(root, "data.root"):
            others = os.path.lexists(root) and any(not entry.name.startswith(STATE) for entry in root.iterdir())
        if others and not os.path.lexists(path):  # another process may just have begun to draw the same scenes
            problem = f"{root} holds something else than scenes: expected an empty or new folder"
            raise InputError(problem, setting="data.root")
        return 0
    state = read_json(path)
    if not isinstance(state, dict) or type(state.get("complete")) is not bool:
        raise InputError("does not tell which scenes are here: name another folder, or delete it", file=path)
    version = state.get("version")
    known = type(version) is int and version in VERSIONS
    other = [] if known else [f"version {shown(version, 20)} instead of {VERSION}"]
    other += [
        f"{key} {shown(state.get(key), 20)} instead of {value}"
        for key, value in wanted.items()
        if state.get(key) != value
    ]
    if other:
        problem = f"{root} holds scenes with {', '.join(other)}: name another folder, or delete it"
        raise InputError(problem, setting="data.root")
    return int(version) if state["complete"] else 0


def require_scenes(root: Path, seed: int, size: Size, version: int = VERSION) -> None:
    """Make sure that ``root`` holds this benchmark, complete.

    Raises:
        InputError: if it does not; the message says how to draw it, as a folder may be mistyped.
    """
    held = _complete_version(root, seed, size)
    if held < version:
        problem = "lacks a part of its scenes" if (root / STATE).exists() else "holds no scenes"
        if held:
            problem = f"holds version {held} of its scenes, not {version}, which adds to it (or set data.version)"
        command = f"python -m experiments.scenes --root {shlex.quote(str(root))}"
        command += f" --seed {seed}" * (seed != 0) + f" --version {version}" * (version != VERSION)
        command += "".join(f" --size.{k} {v}" for k, v in asdict(size).items() if v != getattr(Size(), k))
        raise InputError(f"{root} {problem}: draw them with --data.draw=true, or `{command}`", setting="data.root")


def write_scenes(root: Path, seed: int = 0, size: Size = Size(), workers: int = 2, version: int = VERSION) -> None:
    """Draw whatever is not on disk yet; after an interruption at any moment, the same call resumes.

    A folder of an earlier version gets what it lacks, and stays usable as that version meanwhile.

    Raises:
        InputError: if ``root`` holds another benchmark or other files, or can't be written.
    """
    whole(workers, 1, "workers")
    whole(version, 1, "data.version", VERSION)
    held = _complete_version(root, seed, size)
    if held < version:
        with writing(root, "data.root"):
            _draw(root, seed, size, workers, version, held)


def _draw(root: Path, seed: int, size: Size, workers: int, version: int, held: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    state = {"version": version, "seed": seed, **asdict(size)}
    if not held:
        _write_json(root / STATE, {**state, "complete": False}, indent=2)
    for number in range(100):
        (root / "img_raw" / "train" / str(number)).mkdir(parents=True, exist_ok=True)
    (root / COCO / "unlabeled2017").mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        for split in SPLITS if version == 1 else SPLITS + ADDED_SPLITS:
            train = split == "train"
            if held and train:
                continue
            (root / "img_raw" / split).mkdir(exist_ok=True)
            kinds = version > 1 and not train
            count = size.train_references if train else size.references
            tasks = [Task(str(root), seed, split, number, kinds) for number in range(count)]
            _write_split(root, split, _bases(_write_base, tasks, workers, progress, f"scenes {split}"))
        if not held:
            _draw_shared(root, seed, size, workers, progress)
    _write_json(root / STATE, {**state, "complete": True}, indent=2)


def _draw_shared(root: Path, seed: int, size: Size, workers: int, progress: Progress) -> None:
    """Draw the CIRCO-style splits, whose images are listed in one file."""
    images = []
    for split in ("val", "test"):
        tasks = [Task(str(root), seed, split, number) for number in range(size.shared_references)]
        bases = _bases(_write_shared_base, tasks, workers, progress, f"scenes circo {split}")
        images += _write_shared_split(root, split, bases)
    _write_json(root / COCO / "annotations" / "image_info_unlabeled2017.json", {"images": images})
