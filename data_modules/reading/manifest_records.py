"""The records of a manifest: their fields, and what of them all benchmarks share."""

import posixpath
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo, field_validator

from contextcir.errors import shown
from data_modules.reading.annotations import (
    ClauseSpan,
    Concepts,
    ImageSize,
    PhraseField,
    PlainCaption,
    Problem,
    Record,
    check_other,
    check_path,
    clause_records,
    phrase_records,
)
from data_modules.records import Origin, QueryRecord


def normal_path(listed: str) -> str:
    """Return a path in its shortest form: an image has one name, however its path is written.

    Raises:
        Problem: if it is none.
    """
    if not listed.strip():
        raise Problem("is empty: it must be the path of an image")
    return check_path(posixpath.normpath(listed) if listed[-1] != "/" else listed)


ImagePath = Annotated[str, AfterValidator(normal_path)]


class ManifestEntry(Record):
    """The fields of a record that say where it belongs."""

    id: int | None = None
    split: str | None = None


class ManifestRecord(PlainCaption):
    """A triplet of a manifest, known by its ``id`` or by its position in the file."""

    id: int | None = None
    reference: ImagePath
    target: ImagePath | None = None
    image_set: int | None = None
    phrases: list[PhraseField] | None = None
    clauses: list[ClauseSpan] | None = None
    image_size: ImageSize | None = None
    concepts: Concepts | None = None
    further_references: list[ImagePath] | None = None
    further_targets: list[ImagePath] | None = None
    negatives: list[ImagePath] | None = None
    query_group: int | None = None

    @field_validator("target")
    @classmethod
    def _check_target(cls, target: str | None, info: ValidationInfo) -> str | None:
        check_other(target, info.data.get("reference"))
        return target

    @field_validator("further_references", "further_targets", "negatives")
    @classmethod
    def _check_further(cls, names: list[str] | None, info: ValidationInfo) -> list[str] | None:
        known = info.data
        references = {known.get("reference"), *(known.get("further_references") or ())}
        targets = {known.get("target"), *(known.get("further_targets") or ())}
        if info.field_name == "further_targets" and names and known.get("target") is None:
            raise Problem("is there without target")
        # A reference may well be a wrong answer, but it is never a right one, and never there twice.
        taken = {"further_references": references | targets, "further_targets": references | targets}
        for place, name in enumerate(names or ()):
            if name in taken.get(str(info.field_name), targets):
                raise Problem(
                    "is a reference or a target already" if info.field_name != "negatives" else "is a target",
                    f": {shown(name)}",
                    str(place),
                )
            if name in (names or ())[:place]:
                raise Problem("is there twice", f": {shown(name)}", str(place))
        return names

    def targets(self) -> list[str]:
        """Return all right answers; [] where labels are hidden."""
        return [] if self.target is None else [self.target, *(self.further_targets or ())]

    def images(self) -> list[str]:
        """Return all images that the record names, those that are no wrong answers first."""
        references = [self.reference, *(self.further_references or ())]
        return [*references[:1], *self.targets(), *references[1:], *(self.negatives or ())]


def query_of(record: ManifestRecord, origin: Origin) -> QueryRecord:
    """Return the record in the form that all benchmarks share."""
    return QueryRecord(
        reference=record.reference,
        caption=record.caption,
        phrases=phrase_records(record.phrases, record.caption),
        clauses=clause_records(record.clauses, record.caption),
        target=record.target,
        id=origin.position if record.id is None else record.id,
        image_set=record.image_set,
        image_size=record.image_size,
        origin=origin,
        negatives=tuple(record.negatives or ()),
    )
