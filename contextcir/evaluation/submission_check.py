"""Everything that a server rejects in a submission file, found before the file is sent."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from contextcir.errors import InputError, shown
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.submission import SubmissionFormat

MAX_BYTES = 5_000_000  # CIRR's server says 5 MB; the decimal reading is the safe one

Field = tuple[str, object]


class Submission(NamedTuple):
    """A parsed file: its fields, the keys that occur more than once, and its size in bytes."""

    fields: Mapping[str, Any]
    repeated: tuple[str, ...]
    size: int


class _Pairs(tuple[Field, ...]):
    """The fields of a JSON object in the order of the text, repeated ones included."""


def parse(content: bytes) -> Submission:
    """Read the bytes of a file.

    Raises:
        InputError: if they are no JSON object.
    """
    try:
        pairs = json.loads(content.decode("utf-8"), object_pairs_hook=_Pairs)
    except RecursionError:
        raise InputError("is not valid JSON for any reader: lists or objects are nested too deeply") from None
    except ValueError as error:  # also of another encoding
        raise InputError(f"is not valid JSON ({shown(str(error), 100)[1:-1]})") from None
    if not isinstance(pairs, _Pairs):
        raise InputError(f"must be a JSON object with a list for every query, got {_shown(pairs)}")
    counts = Counter(key for key, _ in pairs)
    return Submission(dict(pairs), tuple(key for key, count in counts.items() if count > 1), len(content))


def recognise(forms: Sequence[SubmissionFormat], submission: Submission) -> SubmissionFormat:
    """Return the format of a file by its header, or by the length of its lists if no header matches."""
    longest = max((len(value) for value in submission.fields.values() if isinstance(value, list)), default=0)

    def likeness(form: SubmissionFormat) -> tuple[int, int]:
        return len(form.header.items() & _strings(submission.fields)), -abs(form.length - longest)

    return max(forms, key=likeness)


def check(form: SubmissionFormat, protocol: Protocol, submission: Submission) -> list[str]:
    """Return one line for each kind of mistake, with the first query that makes it; [] for a valid file."""
    fields, keys = submission.fields, {str(query): number for number, query in enumerate(protocol.query_ids)}
    problems = []
    if submission.size > MAX_BYTES:
        problems.append(
            f"holds {submission.size:,} bytes, more than the {MAX_BYTES:,} allowed: write it without blanks"
        )
    if submission.repeated:
        problems.append(f"holds key {_shown(submission.repeated[0])} more than once{_others(len(submission.repeated))}")
    for name, value in form.header.items():
        if fields.get(name) != value:
            given = f"is {_shown(fields[name])}" if name in fields else "is missing"
            problems.append(f"field {name!r} {given}, expected {value!r}")
    missing = [key for key in keys if key not in fields]
    if missing:
        problems.append(f"query {missing[0]} is missing{_others(len(missing))}")
    extra = [key for key in fields if key not in keys and key not in form.header]
    if extra:
        problems.append(
            f"key {_shown(extra[0])} is no query of {protocol.benchmark} {protocol.split}{_others(len(extra))}"
        )
    index: dict[str | int, int] = {name: number for number, name in enumerate(form.entries(protocol))}
    by_kind: dict[str, list[str]] = {}
    for key, query in keys.items():
        if key in fields:
            for kind, problem in _mistakes(form, protocol, query, fields[key], index):
                by_kind.setdefault(kind, []).append(f"query {key}: {problem}")
    return problems + [f"{lines[0]}{_others(len(lines))}" for lines in by_kind.values()]


def lists_of(form: SubmissionFormat, protocol: Protocol, submission: Submission) -> list[list[int]]:
    """Return the ranked lists, as gallery indices in the order of the protocol, of a file that `check` accepts."""
    index = {name: number for number, name in enumerate(form.entries(protocol))}
    return [[index[entry] for entry in submission.fields[str(query)]] for query in protocol.query_ids]


def _mistakes(
    form: SubmissionFormat, protocol: Protocol, query: int, listed: object, index: Mapping[str | int, int]
) -> Iterator[Field]:
    """Yield the kind and the description of every mistake in one query's list."""
    if not isinstance(listed, list):
        yield "type", f"expected a list, got {_shown(listed)}"
        return
    expected, pool, reference = form.count(protocol, query), form.pool(protocol, query), protocol.references[query]
    if len(listed) != expected:
        yield "count", f"holds {len(listed)} images, expected {expected}"
    # `type`, as true and false are integers in Python
    wrong = [entry for entry in listed if type(entry) is not form.kind]
    if wrong:
        kind = {str: "a name in quotes", int: "an integer without quotes"}[form.kind]
        yield "kind", f"expected {kind} for every image, got {_shown(wrong[0])}"
    names = [entry for entry in listed if type(entry) is form.kind]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        yield "repeated", f"lists image {_shown(repeated[0])} more than once"
    unknown = [name for name in names if name not in index]
    if unknown:
        yield "unknown", f"image {_shown(unknown[0])} is not in the gallery of {protocol.split}"
    known = [name for name in names if name in index]
    if form.rejects_reference and reference in (index[name] for name in known):
        yield "reference", f"lists its reference {_shown(protocol.gallery[reference])}, which must not be ranked"
    outside = [name for name in known if index[name] not in pool and index[name] != reference]
    if outside:
        yield "outside", f"image {_shown(outside[0])} is not a member of the query's image set"


def _strings(fields: Mapping[str, object]) -> set[tuple[str, str]]:
    return {(key, value) for key, value in fields.items() if isinstance(value, str)}


def _others(count: int) -> str:
    """Return the number of further cases in words, if there are any."""
    return "" if count == 1 else f" (and {count - 1:,} more)"


def _shown(value: object) -> str:
    """Return a value as JSON, cut to fit into a line."""
    if isinstance(value, _Pairs | list):
        return "an object" if isinstance(value, _Pairs) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
