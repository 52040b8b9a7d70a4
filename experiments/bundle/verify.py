"""A bundle against itself: files and parts by their digests, and every figure by the ranks."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError, shown
from contextcir.files import parse_json
from experiments.bundle.archive import HEAD, read_archive
from experiments.bundle.contents import FORMAT, digest, parts_of
from experiments.bundle.figures import DIFFERS, MEAN, UNVERIFIED, VERIFIED, Figure, Split, check_mean, check_result

HEAD_FIELDS = (
    "name", "kind", "software", "licence", "seeds", "model", "results", "environment", "left_out", "files", "digests"
)  # fmt: skip
NO_RANKS = "the bundle has no ranks of this split"
OTHER_RANKS = "the ranks are of another evaluation of this split"
_SUBMISSION = re.compile(r"submission/([a-z]+)_(\w+?)(?:_recall|_recall_subset)?\.json")


class Bundle(NamedTuple):
    """A bundle: ``head`` (``bundle.json``), the ``ranks`` of splits, and what became of every figure and file."""

    head: Mapping[str, Any]
    ranks: Mapping[tuple[str, str], Split]
    figures: tuple[Figure, ...]

    def of(self, state: str) -> list[Figure]:
        """Return the figures of a state."""
        return [figure for figure in self.figures if figure.state == state]


def read_bundle(path: Path) -> Bundle:
    """Return what a file holds, checked.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no bundle. One whose figures differ is one: `Bundle.of` tells.
    """
    return check_bundle(read_archive(path), path)


def check_bundle(files: Mapping[str, bytes], path: Path) -> Bundle:
    """Return the same of files that were read already."""
    head = _json(files[HEAD], path, HEAD)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise InputError(f"is no bundle of format {FORMAT}: a newer version may read it", file=path)
    lacking = [name for name in HEAD_FIELDS if name not in head]
    if lacking:
        raise InputError(f"is no bundle of this version: {HEAD} has no {lacking[0]}", file=path)
    try:
        figures = [*_check_files(head, files), *_check_parts(head)]
        ranks: dict[tuple[str, str], Split] = {}
        for phase, splits in head["results"].items():
            for split, entry in splits.items():
                ranks_of, why, broken = _ranks(phase, split, entry, files, path)
                figures += broken
                if MEAN not in entry:
                    figures += check_result(f"{phase}.{split}", entry, ranks_of, why)
                if ranks_of is not None:
                    ranks[phase, split] = ranks_of
            for split, entry in splits.items():
                if MEAN in entry:
                    parts = [ranks.get((phase, part)) for part in entry[MEAN]]
                    figures += check_mean(f"{phase}.{split}", entry, parts, "ranks of a part are missing")
        figures += _check_submissions(files, ranks, path)
        return Bundle(head, ranks, tuple(figures))
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        problem = f"is no bundle that this version reads ({type(error).__name__}: {shown(str(error), 80)[1:-1]})"
        raise InputError(problem, file=path) from None


def report(bundle: Bundle, every: bool = False) -> list[str]:
    """Return the lines that say what became of the figures: one by one, or those that are verified by group."""
    lines = []
    groups: dict[str, int] = {}
    for figure in bundle.of(VERIFIED):
        places = figure.name.split(".")  # phase, split, row, figure; or phase, split, figure
        group = "files" if figure.name.startswith("file ") else ".".join(places[: 3 if len(places) > 3 else 2])
        groups[group] = groups.get(group, 0) + 1
        if every:
            lines.append(figure.line)
    unverified: dict[tuple[str, str], list[Figure]] = {}
    for figure in bundle.of(UNVERIFIED):
        unverified.setdefault((figure.name.rpartition(".")[0], figure.why), []).append(figure)
    if every:
        lines += [figure.line for figure in bundle.of(UNVERIFIED)]
    else:
        lines += [f"{group}: {count} verified" for group, count in groups.items()]
        lines += [
            found[0].line if len(found) == 1 else f"{group}: {len(found)} {UNVERIFIED} ({why})"
            for (group, why), found in unverified.items()
        ]
    lines += [f"DIFFERS: {figure.line}" for figure in bundle.of(DIFFERS)]
    counts = [f"{len(bundle.of(state)):,} {state}" for state in (VERIFIED, UNVERIFIED, DIFFERS)]
    return [*lines, ", ".join(counts)]


def refuse_different(bundle: Bundle, path: Path | None = None) -> None:
    """Raise InputError if anything in a bundle differs; it names the first figure.

    A figure that the ranks contradict says more than the digest of the part that it stands in: it comes first.
    """
    differing = bundle.of(DIFFERS)
    if differing:
        first = min(differing, key=lambda figure: (figure.name.startswith(("file ", "part ")), figure.name))
        more = f" (and {len(differing) - 1} more)" if differing[1:] else ""
        raise InputError(f"{first.line}{more}", file=path)


def _check_files(head: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[Figure]:
    listed = head["files"]
    for name, expected in listed.items():
        found = hashlib.sha256(files[name]).hexdigest() if name in files else None
        why = "but it is missing" if found is None else "" if found == expected else "but its content is another"
        yield Figure(f"file {name}", f"sha256 {str(expected)[:12]}", DIFFERS if why else VERIFIED, why=why)
    for name in sorted(files.keys() - listed.keys() - {HEAD}):
        yield Figure(f"file {name}", "nothing", DIFFERS, why="but it is in the bundle")


def _check_parts(head: Mapping[str, Any]) -> Iterator[Figure]:
    parts, digests = parts_of(head), head["digests"]
    for name in dict.fromkeys([*parts, *digests]):
        given, found = digests.get(name), digest(parts[name]) if name in parts else None
        if given != found:
            why = "but it is missing" if found is None else "but it was changed since it was bundled"
            yield Figure(f"part {name}", f"sha256 {str(given)[:12]}", DIFFERS, why=why)


def _ranks(
    phase: str, split: str, entry: Mapping[str, Any], files: Mapping[str, bytes], path: Path
) -> tuple[Split | None, str, list[Figure]]:
    """Return the ranks of a result, or why there are none; contradicting ranks are a figure that differs."""
    name = f"ranks/{split}.json"
    if name not in files or MEAN in entry:
        return None, NO_RANKS, []
    content = _json(files[name], path, name)
    made = content.get("made")
    if isinstance(made, Mapping) and (made.get("phase"), made.get("step")) != (phase, entry.get("step")):
        return None, OTHER_RANKS, []
    try:
        return Split(content, entry["protocol"]), "", []
    except InputError as error:
        return None, error.problem, [Figure(f"{phase}.{split}", "ranks", DIFFERS, why=error.problem)]


def _check_submissions(
    files: Mapping[str, bytes], ranks: Mapping[tuple[str, str], Split], path: Path
) -> Iterator[Figure]:
    for name in sorted(files):
        match = _SUBMISSION.fullmatch(name)
        if match is None:
            continue
        content = _json(files[name], path, name)
        known = [split.entry["queries"] for (_, of), split in ranks.items() if of == match[2]]
        keys: Sequence[str] = list(content) if isinstance(content, dict) else []
        if known and not {str(query) for query in known[0]} <= set(keys):
            yield Figure(name, f"{len(keys)} queries", DIFFERS, why="but it lacks queries of its split")
        else:
            yield Figure(name, f"{len(keys)} keys", UNVERIFIED, why="the right answers are not in a bundle")


def _json(content: bytes, path: Path, name: str) -> Any:
    try:
        return parse_json(content.decode("utf-8"), file=f"{path}: {name}")
    except UnicodeDecodeError:
        raise InputError("is no text in UTF-8", file=f"{path}: {name}") from None
