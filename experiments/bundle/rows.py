"""The row of a leaderboard: the figures over all queries of a bundle, with intervals, small enough for a repository."""

from collections.abc import Mapping
from typing import Any

from contextcir.errors import InputError
from experiments.bundle.contents import FORMAT
from experiments.bundle.figures import DIFFERS, MEAN, ROWS, UNVERIFIED, VERIFIED, Split
from experiments.bundle.ranks import COMPOSED, NotKeptError
from experiments.bundle.verify import Bundle
from experiments.report.statistics import estimate

REFERENCES, SEEDS = "references", "seeds"  # what an interval is over
MODEL = ("model", "pretrained", "parameters", "dimension", "revision", "instruction", "licence")
NDCG = "ndcg"  # of the whole gallery, of which the Composition Gap is
MADE = ("checkpoint", "weights", "missing_images", "seen", MEAN)


def row_of(bundle: Bundle, name: str | None = None) -> dict[str, Any]:
    """Return the row of a bundle.

    Args:
        bundle: what it holds, checked.
        name: of the row; by default the model's, and what composes its queries.

    Raises:
        InputError: if a part of it is of another kind than bundles have.
    """
    try:
        return _row(bundle, name)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the bundle holds something else than results ({type(error).__name__}: {error})") from None


def _row(bundle: Bundle, name: str | None) -> dict[str, Any]:
    tables = [
        _table(bundle, phase, split, entry)
        for phase, splits in bundle.head["results"].items()
        for split, entry in splits.items()
        if ROWS in entry
    ]
    first = next((e for splits in bundle.head["results"].values() for e in splits.values() if ROWS in e), {})
    embedder = first.get("embedder") or {}  # of a foreign model, which describes itself
    model = {key: embedder.get(key, first.get(key)) for key in MODEL} | dict(bundle.head.get("model") or {})
    model["licence"] = bundle.head.get("licence") or model["licence"]
    words = (embedder.get("name") or model["model"], model.get("fusion"), model.get("concept"))
    return {
        "format": FORMAT,
        "kind": "reproduced",
        "name": name or ", ".join(str(word) for word in words if word),
        "run": bundle.head["name"],
        "model": model,
        "seeds": bundle.head["seeds"],
        "software": bundle.head["software"],
        "environment": bundle.head["environment"],
        "tables": tables,
    }


def _table(bundle: Bundle, phase: str, split: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    ranks = bundle.ranks.get((phase, split))
    begin = f"{phase}.{split}."
    figures = [figure for figure in bundle.figures if figure.name.startswith(begin)]
    gains = entry.get("composition", {}).get("ndcg", {})
    return {
        "phase": phase,
        "split": split,
        "protocol": entry["protocol"],
        "data": _data(bundle, phase, split, entry),
        **{name: entry[name] for name in MADE if entry.get(name) is not None},
        ROWS: {
            row: {
                name: {"mean": value, "values": [value], **_interval(ranks, row, name)}
                for name, value in figures_of.items()
                if over_all(name, entry["protocol"])
            }
            | ({NDCG: {"mean": gains[row], "values": [gains[row]]}} if row in gains else {})
            for row, figures_of in entry[ROWS].items()
        },
        "checked": {
            state: sum(figure.state == state for figure in figures) for state in (VERIFIED, UNVERIFIED, DIFFERS)
        },
    }


def _data(bundle: Bundle, phase: str, split: str, entry: Mapping[str, Any]) -> str | None:
    """Return the digest of a split's data, for a mean those of its parts."""
    parts = [bundle.ranks.get((phase, part)) for part in entry.get(MEAN, [split])]
    found = [part.entry.get("data") if part is not None else None for part in parts]
    return "+".join(str(name) for name in found) if all(found) else None


def over_all(name: str, protocol: Mapping[str, Any]) -> bool:
    """Tell whether a figure is over all queries, not over a group of them."""
    return not any(name.endswith(f"_{stratum}") for stratum in protocol.get("strata") or {})


def _interval(ranks: Split | None, row: str, name: str) -> dict[str, Any]:
    """Return the interval of a figure of the composed query over references, {} where there is none."""
    if ranks is None or row != COMPOSED:
        return {}
    try:
        of_seen = ranks.values(row, name)
    except NotKeptError:
        return {}
    values: list[float | None] = [None] * len(ranks.entry["queries"])
    for place, value in zip(ranks.rows[row].seen, of_seen.tolist(), strict=True):
        values[place] = value
    named = ranks.entry["references"]
    clusters = [f"query {place}" if number is None else str(number) for place, number in enumerate(named)]
    found = estimate(values, clusters, range(len(values)))
    return {} if found is None else {"low": round(found.low, 2), "high": round(found.high, 2), "over": REFERENCES}
