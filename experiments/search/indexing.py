"""The commands `index` and `merge`: progress while they work, and a summary at the end."""

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from contextcir.errors import InputError, one_line, printable
from contextcir.files import write_json, writing
from contextcir.search import folder as folders
from contextcir.search.folder import Progress, Report
from contextcir.search.index import Index
from contextcir.search.listing import LeftOut
from contextcir.search.places import check_same, make_index, open_index
from contextcir.search.searcher import Searcher
from experiments.command import read_shard
from experiments.outputs import output_file

SHOWN = 10  # damaged files that are listed


class ProgressBar(Progress):
    """A bar on standard error, with rate and time left."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = Bar(*columns, console=Console(stderr=True))
        self._task: Any = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def compared(self, photos: int, to_read: int) -> None:
        """Begin, if there is anything to read."""
        if to_read:
            self.bar.start()
            self._task = self.bar.add_task(f"{photos:,} photos, to read:", total=to_read, rate="")

    def advanced(self, done: int, total: int, rate: float, left: float) -> None:
        """Go on."""
        minutes, seconds = divmod(round(left), 60)
        told = f"{rate:,.1f} a second, {minutes}:{seconds:02d} left"
        self.bar.update(self._task, completed=done, rate=told)


def index(
    photos: Path,
    model: str,
    out: Path,
    workers: int | None,
    only: str | None,
    qdrant: str | None,
    device: str | None,
    report_file: Path | None,
) -> None:
    """Bring an index up to date, and say what was done; see `Searcher.index_folder`."""
    folders.Loading(workers)  # before seconds of loading a model
    output_file(report_file, "json")
    shard = read_shard(only, "only")
    searcher = Searcher.load(model, device=device)
    with ProgressBar() as progress:
        report = searcher.index_folder(photos, out, workers=workers, progress=progress, only=shard, qdrant=qdrant)
    print("\n".join(summary(report, searcher.index, out)))
    if report_file is not None:
        with writing(report_file, "json"):
            write_json(report_file, {**asdict(report), **_listed(report)}, indent=2)


def merge(shards: Sequence[Path], out: Path, qdrant: str | None) -> None:
    """Join indexes, and say how many photos there are; see `contextcir.search.folder.merge`."""
    opened = [open_index(shard) for shard in shards]
    if any(shard.resolve() == out.resolve() for shard in shards):
        raise InputError("is one of the shards: name another folder", setting="out")
    about = opened[0].about
    for shard, place in zip(opened, shards, strict=True):
        check_same(shard.about, {key: value for key, value in about.items() if key != "folder"}, place)
    target = make_index(out, about, qdrant)
    copied = folders.merge(target, opened)
    print(f"{printable(str(out))}: {target.count():,} photos, {copied:,} of them from {len(shards)} indexes")


def summary(report: Report, index: Index, out: Path) -> list[str]:
    """Return what an indexing did, in a few lines."""
    counts = ", ".join(
        f"{getattr(report, name):,} {name}" for name in ("new", "changed", "moved", "deleted", "unchanged")
    )
    lines = [f"{printable(str(out))}: {index.count():,} photos ({counts})"]
    speed = f" at {report.rate:,.1f} a second" if report.encoded else ""
    lines.append(f"{report.encoded:,} photos encoded{speed}; {report.seconds:,.1f} s in all")
    if report.skipped:
        reasons = Counter(left.reason for left in report.skipped)
        told = "; ".join(f"{count:,}: {printable(reason)}" for reason, count in reasons.most_common(5))
        lines.append(f"{len(report.skipped):,} files skipped ({told}{'; ...' if len(reasons) > 5 else ''})")
    if report.damaged:
        lines.append(f"{len(report.damaged):,} photos can't be read:")
        lines += [f"  {one_line(f'{left.path}: {left.reason}', 150)}" for left in report.damaged[:SHOWN]]
        if report.damaged[SHOWN:]:
            lines.append(f"  and {len(report.damaged) - SHOWN:,} more (--json FILE lists all)")
    return lines


def _listed(report: Report) -> dict[str, list[dict[str, str]]]:
    def plain(files: Sequence[LeftOut]) -> list[dict[str, str]]:
        return [{"path": left.path, "reason": left.reason} for left in files]

    return {"skipped": plain(report.skipped), "damaged": plain(report.damaged)}
