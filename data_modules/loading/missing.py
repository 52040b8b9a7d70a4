"""Missing images: an error before anything is trained on or scored, or a benchmark without them."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from contextcir.errors import InputError, MissingFileError
from contextcir.evaluation.protocol import Protocol
from data_modules.columns import LazyRecords, needed_images, without_images
from data_modules.loading.images import ImageStore, label
from data_modules.records import Evaluation, QueryRecord, TrainingSet

Part = TypeVar("Part", TrainingSet, Evaluation)


def find_missing(part: TrainingSet | Evaluation, images: ImageStore, command: str, allowed: bool) -> set[str]:
    """Return the names of images that are needed but do not exist.

    Args:
        part: a training set with references and targets, or an evaluation with references and gallery.
        images: where they should be.
        command: lists all of them; for the error message.
        allowed: warn about them, instead of an error.

    Raises:
        MissingFileError: if there are any and that is not allowed.
    """
    names: Sequence[str]
    if isinstance(part, Evaluation):
        what = f"{part.protocol.benchmark} {part.protocol.split}"
        names = list(dict.fromkeys([*(record.reference for record in part.records), *part.protocol.gallery]))
    else:
        what, names = part.file, needed_images(part.records)
    missing = images.missing(names)
    if missing:
        named = ", ".join(map(label, missing[:3])) + (", ..." if len(missing) > 3 else "")
        reason = images.complaint(missing[0])
        message = f"{what}: {len(missing):,} of {len(names):,} images are missing: {named} ({reason})"
        if not allowed:
            raise MissingFileError(
                f"{message}; list them all with `{command}`, or go on without them: figures are not comparable then",
                setting="data.allow_missing",
            )
        rank_zero_warn(f"{message}; they are left out, as allow_missing is set: figures are not comparable")
    return set(missing)


def drop_missing(part: Part, missing: Collection[str]) -> Part:
    """Return a training set without the triplets, or an evaluation without the queries, that need missing images.

    A triplet does not need its hard negatives: those that are missing are left out of it.
    """
    if not missing:
        return part
    if isinstance(part, Evaluation):
        protocol, records = drop_from_protocol(part.protocol, part.records, missing)
        return part._replace(protocol=protocol, records=records)
    if isinstance(part.records, LazyRecords):
        return part._replace(records=without_images(part.records, missing))
    records = tuple(
        record._replace(negatives=tuple(name for name in record.negatives if name not in missing))
        for record in part.records
        if record.reference not in missing and record.target not in missing
    )
    return part._replace(records=records)


def drop_from_protocol(
    protocol: Protocol, records: Sequence[QueryRecord], missing: Collection[str]
) -> tuple[Protocol, tuple[QueryRecord, ...]]:
    """Return a protocol and its records without images that are ``missing``.

    They are dropped from the gallery, the targets and the subsets. A query is dropped if its reference is missing, or
    all its targets; with `recall_of_first`, its first target.

    Raises:
        InputError: if nothing is left.
    """
    present = [image for image, name in enumerate(protocol.gallery) if name not in missing]
    place = {image: new for new, image in enumerate(present)}
    count, of_records = len(protocol.query_ids), protocol.record_queries()
    without_reference = {
        query for query, record in zip(of_records, records, strict=True) if record.reference in missing
    }

    def lost(query: int) -> bool:
        targets = protocol.targets[query]
        needed = targets[:1] if protocol.recall_of_first else targets
        return query in without_reference or (bool(needed) and not any(image in place for image in needed))

    kept = [query for query in range(count) if not lost(query)]
    if not kept or not present:
        raise InputError(
            f"{protocol.benchmark} {protocol.split}: without the missing images no {'query' if present else 'gallery'} "
            "is left: expected the folder that holds them",
            setting="data.root",
        )
    new_query = {query: number for number, query in enumerate(kept)}

    def left(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(place[image] for image in rows[query] if image in place) for query in kept)

    def fewer(counts: Sequence[int] | None, rows: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
        if counts is None:
            return None
        return tuple(counts[query] - sum(image not in place for image in rows[query]) for query in kept)

    strata = {
        name: tuple(new_query[query] for query in members if query in new_query)
        for name, members in protocol.strata.items()
    }
    graded, groups, further = protocol.graded_targets, protocol.query_groups, protocol.further_references
    restricted = replace(
        protocol,
        gallery=tuple(protocol.gallery[image] for image in present),
        query_ids=tuple(protocol.query_ids[query] for query in kept),
        targets=left(protocol.targets),
        references=tuple(place.get(protocol.references[query], -1) for query in kept),
        subsets=None if protocol.subsets is None else left(protocol.subsets),
        graded_targets=None
        if graded is None
        else tuple({place[i]: value for i, value in graded[query].items() if i in place} for query in kept),
        strata={name: members for name, members in strata.items() if members},
        negatives=None if protocol.negatives is None else left(protocol.negatives),
        query_groups=None if groups is None else tuple(groups[query] for query in kept),
        further_references=None
        if further is None
        else tuple(tuple(place.get(image, -1) for image in further[query]) for query in kept),
        counted_targets=fewer(protocol.counted_targets, protocol.targets),
        counted_negatives=fewer(protocol.counted_negatives, protocol.negatives or ()),
    )
    left_records = (
        _with_present_target(record, protocol, protocol.targets[query], missing)
        for query, record in zip(of_records, records, strict=True)
        if query in new_query
    )
    return restricted, tuple(left_records)


def _with_present_target(
    record: QueryRecord, protocol: Protocol, targets: Sequence[int], missing: Collection[str]
) -> QueryRecord:
    """Let a record name another of its right answers where the first is missing, to show it in figures."""
    if record.target is None or record.target not in missing:
        return record
    return record._replace(
        target=next(name for name in map(protocol.gallery.__getitem__, targets) if name not in missing)
    )
