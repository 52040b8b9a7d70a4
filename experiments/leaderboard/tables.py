"""Entries of one protocol in one table, and nothing else in it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.leaderboard.entries import REPORTED, Cell, Entry

COMPOSED, SIDES = "composed", ("image_only", "text_only", "sum")
NDCG = "ndcg"
UNKNOWN = "unknown"
# What describes a protocol and decides no figure over all queries: which figures there are, and groups of queries.
_SHOWN = {"means", "strata", "headline", "averaged_as", "ndcg", "over_query_groups"}
_CUT_OFFS = re.compile(r"\w+_at")
SHORT = {
    "recall_at_": "R@", "subset_recall_at_": "Rsub@", "map_at_": "mAP@", "ndcg_at_": "nDCG@", "precision_at_": "P@",
    "neg_recall_at_": "NegR@", "soft_recall_at_": "soft R@", "soft_subset_recall_at_": "soft Rsub@",
}  # fmt: skip
NAMES = {"mean_recall": "mean of R@5 and Rsub@1", "ndcg": "nDCG", "hit_at_1": "hit@1", "map": "mAP", "mean_r": "mean"}
BENCHMARKS = {
    "cirr": "CIRR", "circo": "CIRCO", "fashioniq": "FashionIQ", "lasco": "LaSCo", "genecis": "GeneCIS",
    "scenes": "Scenes", "icir": "i-CIR", "pinpoint": "PinPoint", "mmeb": "MMEB", "circus": "CIRCUS", "edir": "EDIR",
}  # fmt: skip


class Table(NamedTuple):
    """The entries of one protocol, the best headline first.

    ``metrics`` are in reporting order, the headline first. ``words`` state the protocol.
    """

    title: str
    kind: str
    anchor: str
    words: str
    headline: str
    metrics: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def has_gap(self) -> bool:
        """Whether any entry has a Composition Gap."""
        return any(gap(entry) is not None for entry in self.entries)


def make_tables(entries: Iterable[Entry]) -> list[Table]:
    """Return a table for every protocol: what was reproduced before what is reported, benchmark by benchmark."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, key_of(entry)), []).append(entry)
    titles: dict[str, int] = {}
    tables = []
    for (kind, _), members in sorted(groups.items(), key=lambda item: _order(item[1][0], item[0][1])):
        title = title_of(members[0])
        titles[title] = titles.get(title, 0) + 1
        if titles[title] > 1:  # the same benchmark and version, with other options
            title = f"{title} ({titles[title]})"
        tables.append(_table(title, kind, members))
    return tables


def key_of(entry: Entry) -> str:
    """Return what two entries must have in common to stand in one table: the protocol and what of it was seen.

    Whatever may change a figure is in it, options that this version does not know too. Which metrics there are is not.
    """
    protocol = {
        name: value
        for name, value in entry.protocol.items()
        if name not in _SHOWN and not (_CUT_OFFS.fullmatch(name) and isinstance(value, list))
    }
    return json.dumps([protocol, _partial(entry), entry.missing_images, entry.mean_of, entry.data], sort_keys=True)


def title_of(entry: Entry) -> str:
    """Return the name of a table: benchmark, split, and version of the protocol."""
    protocol = entry.protocol
    name = BENCHMARKS.get(str(protocol["benchmark"]), str(protocol["benchmark"]))
    split = str(protocol["split"]).replace("_", " ")
    if entry.kind == REPORTED:
        return f"{name} {split}" + (f", {protocol['group']}" if protocol["group"] else "")
    return f"{name} {split}, protocol version {protocol.get('version', UNKNOWN)}"


def gap(entry: Entry) -> float | None:
    """Return the Composition Gap, 1 - max(image only, text only) / composed, on nDCG; None where that is not known."""
    known = [entry.figures.get(row, {}).get(NDCG) for row in (COMPOSED, "image_only", "text_only")]
    if any(cell is None for cell in known):
        return None
    composed, image, text = (cell.mean for cell in known if cell is not None)
    return 1 - max(image, text) / composed if composed > 0 else None


def short(metric: str) -> str:
    """Return the short name of a metric."""
    if metric in NAMES:
        return NAMES[metric]
    for long, abbreviation in sorted(SHORT.items(), key=lambda item: -len(item[0])):
        if metric.startswith(long):
            return abbreviation + metric.removeprefix(long)
    return metric.replace("_", " ")


def words_of(entry: Entry) -> str:
    """Return a sentence on the protocol: what is ranked, and every option."""
    protocol = entry.protocol
    if entry.kind == REPORTED:
        return str(protocol["words"])
    seen = _partial(entry)
    parts = [f"mean of {', '.join(entry.mean_of)}"] if entry.mean_of else []
    if "queries" in protocol and "gallery" in protocol:
        parts.append(f"{protocol['queries']:,} queries, {protocol['gallery']:,} images")
    if seen:
        parts.append(f"of which only {seen['queries']:,} queries and {seen['gallery']:,} images were seen")
    if entry.missing_images:
        parts.append(f"{entry.missing_images:,} images missing")
    if protocol.get("exclude_reference") is not None:
        parts.append("the reference image is left out" if protocol["exclude_reference"] else "the reference competes")
    if protocol.get("subsets"):
        parts.append("Rsub: within the query's own set of images")
    if protocol.get("recall_of_first"):
        parts.append("recall of the first target")
    if protocol.get("query_views", 1) > 1:
        parts.append(f"mean of {protocol['query_views']} texts a query")
    known = {
        "benchmark", "split", "version", "gallery", "queries", "labelled", "targets_per_query_max", "exclude_reference",
        "graded_targets", "subsets", "query_views", "ties", "recall_of_first", "average_precision_denominator",
    }  # fmt: skip
    parts += [
        f"{name.replace('_', ' ')}: {value}"
        for name, value in protocol.items()
        if name not in known | _SHOWN and not _CUT_OFFS.fullmatch(name) and value is not None
    ]
    parts += [f"data {entry.data}"] if entry.data else []
    return "; ".join(parts) + "."


def _table(title: str, kind: str, entries: Sequence[Entry]) -> Table:
    headline = str(entries[0].protocol.get("headline", ""))
    names = dict.fromkeys(name for entry in entries for name in entry.figures.get(COMPOSED, {}))
    if headline not in names:
        headline = next(iter(names), "")
    metrics = (headline, *(name for name in names if name not in (headline, NDCG)))
    if NDCG in names and headline != NDCG:
        metrics += (NDCG,)
    return Table(
        title=title,
        kind=kind,
        anchor=re.sub(r"\W+", "-", f"{kind} {title}").strip("-").lower(),
        words=words_of(entries[0]),
        headline=headline,
        metrics=metrics,
        entries=tuple(sorted(entries, key=lambda entry: -_figure(entry, headline))),
    )


def _figure(entry: Entry, metric: str) -> float:
    cell = entry.figures.get(COMPOSED, {}).get(metric)
    return -1.0 if cell is None else cell.mean


def _partial(entry: Entry) -> dict[str, Any] | None:
    """Return what was seen where it is not everything."""
    seen = entry.seen
    if not isinstance(seen, Mapping) or all(seen.get(what) == entry.protocol.get(what) for what in seen):
        return None
    return dict(seen)


def _order(entry: Entry, key: str) -> tuple[Any, ...]:
    protocol = entry.protocol
    if entry.kind == REPORTED:  # as in the file
        return (True,)
    return False, str(protocol["benchmark"]), str(protocol["split"]), str(protocol.get("version")), key


def text_of(cell: Cell | None, digits: int = 2) -> str:
    """Return a figure with its interval."""
    if cell is None:
        return "–"
    if cell.low is None or cell.high is None:
        return f"{cell.mean:.{digits}f}"
    return f"{cell.mean:.{digits}f} [{cell.low:.{digits - 1}f}, {cell.high:.{digits - 1}f}]"
