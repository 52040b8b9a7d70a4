"""What a run has left about its queries: ranks from ``queries.json``, and what was retrieved, as far as it is there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.retrieved import QUERIES_FILE, Found, Head, path_of, read_retrieved
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import read_json
from experiments.study.results import RUN_FOLDER

ADVICE = "evaluate the run again: `python -m experiments.run validate --config RUN/config.yaml --ckpt_path FILE`"
METRICS = "metrics.json"
COMPOSED = "composed"  # as of `contextcir.evaluation.composition`, which takes ten seconds to import


class Split:
    """The queries of a split of a run, and what was found for them.

    Args:
        name: of the split.
        entry: what ``queries.json`` says of it.
        benchmark: its name; "" where nothing says it.
        head, found: of the split's file of what was retrieved; None where there is none.

    Raises:
        InputError: if lists have other lengths than that of the queries.
    """

    def __init__(
        self,
        name: str,
        entry: Mapping[str, Any],
        benchmark: str,
        head: Head | None,
        found: Sequence[Found] | None,
        only_subsets: bool = False,
    ) -> None:
        self.name, self.benchmark, self.head = name, benchmark, head
        self.queries: list[int] = list(entry["queries"])
        self.references: list[str | None] = list(entry["references"])
        self.strata: dict[str, list[int]] = {group: list(members) for group, members in entry["strata"].items()}
        self.rows: Mapping[str, Mapping[str, list[int | None]]] = entry["rows"]
        self.before: Mapping[str, list[bool | None]] = entry.get("target_before", {})
        self.in_subsets = only_subsets if head is None else head.in_subsets
        self.found = list(found) if found is not None and self._agrees(found) else None
        lists = [self.references, *(ranks for row in self.rows.values() for ranks in row.values())]
        if COMPOSED not in self.rows or any(len(ranks) != len(self.queries) for ranks in lists):
            raise InputError(f"split {shown(name)}: expected ranks of {len(self.queries):,} composed queries")

    def ranks(self, row: str = COMPOSED, subset: bool = False) -> list[int | None]:
        """Return the ranks of a row, as the benchmark counts them or in the queries' own subsets; None: not seen."""
        kinds = self.rows.get(row, {})
        return kinds.get("subset_rank" if subset or self.in_subsets else "rank", [None] * len(self.queries))

    def has_subsets(self) -> bool:
        """Tell whether there are subsets besides the gallery."""
        return not self.in_subsets and "subset_rank" in self.rows[COMPOSED]

    def hits(self, k: int, row: str = COMPOSED, subset: bool = False) -> list[float | None]:
        """Return for every query whether its target is among the first k; None: not seen."""
        return [None if rank is None else float(0 < rank <= k) for rank in self.ranks(row, subset)]

    def precision(self, k: int, row: str = COMPOSED) -> list[float | None]:
        """Return the average precision at k of every query, of its nearest images: what mAP@k is the mean of."""
        values: list[float | None] = []
        for query in self.found or ():
            right, hits, total = set(query.targets), 0, 0.0
            for place, (name, _) in enumerate(query.top.get(row, ())[:k], 1):
                if name in right:
                    hits += 1
                    total += hits / place
            values.append(total / min(len(right), k) if right and row in query.top else None)
        return values or [None] * len(self.queries)

    @property
    def several_targets(self) -> bool:
        """Whether queries have several right answers, so that recall does not say all."""
        return any(len(query.targets) > 1 for query in self.found or ())

    def clusters(self) -> list[str]:
        """Return the reference of every query; one whose reference has no name stands for itself."""
        return [f"query {place}" if name is None else name for place, name in enumerate(self.references)]

    def margins(self) -> list[float | None]:
        """Return how far each target's score is below the highest; None where that is not known."""
        margins: list[float | None] = [None] * len(self.queries)
        for place, query in enumerate(self.found or ()):
            best, own = query.top.get(COMPOSED), query.own.get(COMPOSED)
            if best and own is not None:
                margins[place] = best[0][1] - own
        return margins

    def _agrees(self, found: Sequence[Found]) -> bool:
        return [query.query for query in found] == self.queries


class Run:
    """The results of a run's folder, or of the folder of a study's trial.

    Args:
        folder: the run's folder.
        splits: which of its splits; None for all.

    Raises:
        MissingFileError: if it has no results of queries.
        InputError: if they are damaged, or it has no such split.
    """

    def __init__(self, folder: Path, splits: Sequence[str] | None = None) -> None:
        if not (folder / QUERIES_FILE).exists() and (folder / RUN_FOLDER / QUERIES_FILE).exists():
            folder = folder / RUN_FOLDER
        self.folder = folder
        path = folder / QUERIES_FILE
        content = read_json(path)
        if content is None:
            what = "has no" if folder.is_dir() else "is no folder with a"
            raise MissingFileError(f"{what} {QUERIES_FILE}; the callback QueryResults writes it: {ADVICE}", file=folder)
        known = list(content) if isinstance(content, dict) else []
        unknown = [name for name in splits or () if name not in known]
        if unknown or not known:
            raise InputError(f"has results of {', '.join(known) or 'no split'}, none of {unknown}", file=path)
        protocols = _protocols(folder)
        self.splits: dict[str, Split] = {}
        for name in splits or known:
            try:
                protocol = protocols.get(name, {})
                only_subsets = bool(protocol) and not protocol["recall_at"] and bool(protocol["subset_recall_at"])
                benchmark = content[name].get("benchmark") or protocol.get("benchmark") or ""
                head, found = self._retrieved(name)
                self.splits[name] = Split(name, content[name], benchmark, head, found, only_subsets)
            except InputError as error:
                raise InputError(error.problem, file=error.file or path) from None
            except (LookupError, TypeError, AttributeError) as error:
                problem = f"is no result of queries ({type(error).__name__}: {error}): {ADVICE}"
                raise InputError(problem, file=path) from None

    @property
    def label(self) -> str:
        """Return the name and the id of the run."""
        parts = [part for part in self.folder.absolute().parts if part != RUN_FOLDER]
        return "/".join(parts[-2:])

    def _retrieved(self, split: str) -> tuple[Head | None, list[Found] | None]:
        path = path_of(self.folder, split)
        return read_retrieved(path) if path.exists() else (None, None)


def check_comparable(first: Run, second: Run) -> list[str]:
    """Return the splits that both runs have.

    Raises:
        InputError: if they have none of the same benchmark with the same queries.
    """
    shared = [name for name in first.splits if name in second.splits]
    if not shared:
        ours, theirs = (", ".join(map(_named, run.splits.values())) for run in (first, second))
        raise InputError(f"the runs have no split in common: {first.label} has {ours}, {second.label} has {theirs}")
    for name in shared:
        ours, theirs = first.splits[name], second.splits[name]
        if ours.benchmark != theirs.benchmark:
            raise InputError(
                f"runs of different benchmarks can't be compared: {first.label} has {_named(ours)}, {second.label} has "
                f"{_named(theirs)}"
            )
        sizes = [split.head.gallery for split in (ours, theirs) if split.head is not None]
        if ours.queries != theirs.queries or len(set(sizes)) > 1:
            raise InputError(
                f"the runs have other queries or images in {_named(ours)}: {len(ours.queries):,} queries of "
                f"{first.label}, {len(theirs.queries):,} of {second.label}"
            )
    return shared


def _named(split: Split) -> str:
    return f"{split.benchmark} {split.name}".strip()


def _protocols(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the protocols of a run's splits; {} where no file has them."""
    results = read_json(folder / METRICS)
    found: dict[str, Mapping[str, Any]] = {}
    for phase in results.values() if isinstance(results, dict) else ():
        for split, entry in phase.items():
            if isinstance(entry, dict) and "protocol" in entry:
                found[split] = entry["protocol"]
    return found
