"""Annotation files: lists of records, each of which is validated by a pydantic model, all of them in one pass.

A record of a benchmark is a subclass of `Record`. Whatever is wrong becomes an `InputError` that names file, record and
field. Readers raise the first one; a check of a whole benchmark collects them and goes on with the other records.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from contextcir.errors import InputError, shown
from contextcir.files import leads_out
from contextcir.phrases.parser import Span, clean
from data_modules.reading.json_files import read_json, read_records
from data_modules.records import Origin, PhraseRecord

Report = Callable[[InputError], None]
# What a field must be, by the type of pydantic's error.
KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
MOST_PIXELS = 1_000_000  # along a side of an image: far beyond any that is read
LONGEST_PATH = 1_000  # characters of the path of an image


class Problem(ValueError):
    """What is wrong with a field, raised by validators.

    Args:
        rule: the rule that is broken, in words that continue "field NAME".
        detail: what the field holds; goes behind the rule.
        inside: dotted path within the validated field, e.g. ``2`` for an element of a list.
    """

    def __init__(self, rule: str, detail: str = "", inside: str = "") -> None:
        super().__init__(f"{rule}{detail}")
        self.rule = rule
        self.detail = detail
        self.inside = inside


class RecordError(InputError):
    """A record that can't be used. ``rule``: what is wrong, without what the record holds."""

    def __init__(self, problem: str, *, rule: str = "", **places: Any) -> None:
        super().__init__(problem, **places)
        self.rule = rule or problem


class Record(BaseModel):
    """A record of an annotation file. Values are not converted, and fields that it does not name are ignored."""

    model_config = ConfigDict(strict=True)


class CaptionRecord(Record):
    """The fields of a record that the text of its query is made of; the first one tells the format of a file."""

    def texts(self) -> list[str]:
        """Return the texts that a model may be given for the record, under all settings of the data module."""
        raise NotImplementedError


class PlainCaption(CaptionRecord):
    """A record whose ``caption`` is the text of its query."""

    caption: str

    def texts(self) -> list[str]:
        """Return the caption."""
        return [self.caption]


class Listed(NamedTuple):
    """The images that records may name, and the file that lists them: the ``context`` of `ImageName`."""

    names: Container[str]
    file: Path


def _check_listed(name: str, info: ValidationInfo) -> str:
    listed: Listed = info.context
    if name not in listed.names:
        raise Problem(f"names image {shown(name)}, which is not in {listed.file}")
    return name


def _digits(number: Any) -> str:
    if type(number) is not int:
        raise Problem("must be an integer", f", got {shown(number)}")
    return str(number)


def _check_distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise Problem("names an image twice", f": {shown(names)}")
    return names


def check_path(path: str) -> str:
    """Return the path of an image as it is written; raises `Problem` if it is none below the folder of images."""
    if leads_out(path):
        if not path.strip():
            raise Problem("is empty: it must be the path of an image")
        raise Problem("must be a path below the folder of images, without '..'", f", got {shown(path)}")
    if path.rsplit("/", 1)[-1] in ("", ".") or len(path) > LONGEST_PATH:
        raise Problem("must be the path of an image", f", got {shown(path)}")
    return path


def _check_size(size: Any) -> Any:
    if not isinstance(size, list):
        raise Problem("must be a list", f", got {shown(size)}")
    if len(size) != 2 or not all(type(side) is int and 0 < side <= MOST_PIXELS for side in size):
        raise Problem("must be [width, height] in pixels", f", got {shown(size)}")
    return tuple(size)


def _check_box(box: Any) -> Any:
    if not isinstance(box, list):
        raise Problem("must be a list", f", got {shown(box)}")
    if not is_place(box) or box[0] >= box[2] or box[1] >= box[3]:
        raise Problem("must be [x0, y0, x1, y1] in pixels, x0 < x1 and y0 < y1", f", got {shown(box)}")
    return tuple(box)


def _check_span(span: Any) -> Any:
    if not isinstance(span, list) or len(span) != 2 or any(type(place) is not int for place in span):
        raise Problem("must be a span [start, end] of characters", f", got {shown(span)}")
    return tuple(span)


ClauseSpan = Annotated[tuple[int, int], BeforeValidator(_check_span)]
ImageName = Annotated[str, AfterValidator(_check_listed)]
Number = Annotated[str, BeforeValidator(_digits)]  # an integer; its digits are the name of an image
ImageNumber = Annotated[Number, AfterValidator(_check_listed)]
ImageNames = Annotated[list[ImageName], AfterValidator(_check_distinct)]
ImageNumbers = Annotated[list[ImageNumber], AfterValidator(_check_distinct)]
ImageSize = Annotated[tuple[int, int], BeforeValidator(_check_size)]
ImagePath = Annotated[str, AfterValidator(check_path)]
Concepts = Annotated[int, Field(ge=0, le=1_000_000)]  # how many a query has, which names a group of queries
PixelBox = Annotated[tuple[float, float, float, float], BeforeValidator(_check_box)]


class PhraseField(Record):
    """A noun phrase of a caption: its span, and optionally its words and its box in the reference image."""

    start: int
    end: int
    text: str | None = None
    box: PixelBox | None = None


def phrase_records(phrases: Iterable[PhraseField] | None, caption: str, offset: int = 0) -> tuple[PhraseRecord, ...]:
    """Return the phrases of a caption, with spans in its cleaned text.

    Args:
        phrases: as listed.
        caption: the whole text that the model reads.
        offset: where the text that the listed spans count from begins in the cleaned caption.

    Raises:
        Problem: if a span is not inside the caption, or does not hold the listed words.
    """
    if not phrases:
        return ()
    seen = clean(caption)
    records = []
    for number, phrase in enumerate(phrases):
        start, end = phrase.start + offset, phrase.end + offset
        if not offset <= start < end <= len(seen):
            span = f"[{phrase.start}, {phrase.end})"
            raise Problem(f"has span {span} outside the caption {shown(seen[offset:])}", inside=f"phrases.{number}")
        if phrase.text is not None and clean(phrase.text) != seen[start:end]:
            differs = f"is {shown(phrase.text)}, but its span holds {shown(seen[start:end])}"
            raise Problem(differs, inside=f"phrases.{number}")
        records.append(PhraseRecord(start, end, phrase.box))
    return tuple(records)


def clause_records(clauses: Iterable[tuple[int, int]] | None, caption: str) -> tuple[Span, ...]:
    """Return the clauses of a caption.

    Args:
        clauses: as listed: spans in the cleaned caption.
        caption: the whole text that the model reads.

    Raises:
        Problem: if a span is not inside the caption, or does not follow the one before.
    """
    seen, records = clean(caption) if clauses else "", []
    for number, (start, end) in enumerate(clauses or ()):
        if not 0 <= start < end <= len(seen):
            raise Problem(f"is span [{start}, {end}) outside the caption {shown(seen)}", inside=f"clauses.{number}")
        if records and start < records[-1].end:
            raise Problem(f"begins at {start}, before the end of the one before", inside=f"clauses.{number}")
        records.append(Span(start, end))
    return tuple(records)


def check_other(name: str | None, reference: str | None, what: str = "reference") -> None:
    """Raise `Problem` if an image is the reference itself."""
    if name is not None and name == reference:
        raise Problem(f"is the {what} itself", f": {shown(name)}")


def is_place(box: list[Any]) -> bool:
    """Return whether a list holds four numbers that may be pixels; true, false and NaN are none."""
    return len(box) == 4 and all(type(value) in (int, float) and abs(value) <= MOST_PIXELS for value in box)


R = TypeVar("R", bound=Record)
T = TypeVar("T")


class AnnotationFile(Generic[R]):
    """The valid records of an annotation file, in its order.

    Args:
        path: a JSON list, or a file ``.jsonl`` with one record per line.
        model: validates a record.
        key: field that identifies a record, an integer that no other record has; None for records without a key.
        context: passed to the validators, e.g. `Listed`.
        report: receives every `RecordError`; by default the first one is raised.
        listed: records by their position, instead of all of the file.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no list of records, or whatever ``report`` raises.
    """

    def __init__(
        self,
        path: Path,
        model: type[R],
        key: str | None = None,
        context: Any = None,
        report: Report | None = None,
        listed: Mapping[int, Any] | None = None,
    ) -> None:
        self.path = path
        self.report = raise_error if report is None else report
        self._key = key
        self._records: dict[int, R] = {}
        self._identities: dict[int, str] = {}
        first: dict[int, int] = {}  # position by key
        for position, entry in enumerate(read_records(path)) if listed is None else listed.items():
            number = entry.get(key) if key is not None and isinstance(entry, dict) else None
            if type(number) is int:
                self._identities[position] = f"{key} {number}"
            try:
                self._records[position] = model.model_validate(entry, context=context)
            except ValidationError as error:
                for field, problem in field_problems(error):
                    self.reject(position, field, problem)
                continue
            if type(number) is int and first.setdefault(number, position) != position:
                before = f"is {number}, as in record {first[number]}: every record needs its own"
                self.reject(position, key, Problem(before))

    def items(self) -> list[tuple[int, R]]:
        """Return positions in the file and records of all that are valid.

        Raises:
            InputError: if there are none.
        """
        if not self._records:
            raise InputError("holds no records", file=self.path)
        return list(self._records.items())

    def __getitem__(self, position: int) -> R:
        return self._records[position]

    def build(self, make: Callable[[R, Origin], T]) -> dict[int, T]:
        """Return what ``make`` makes of every valid record, by position; one where it raises `Problem` is rejected."""
        built = {}
        for position, record in self.items():
            try:
                built[position] = make(record, self.origin(position))
            except Problem as problem:
                self.reject(position, None, problem)
        self.items()  # not all may be rejected
        return built

    def origin(self, position: int) -> Origin:
        """Return where a record stands."""
        return Origin(str(self.path), position, self._identities.get(position))

    def reject(self, position: int, field: str | None, problem: Problem) -> None:
        """Report a problem, and leave the record out if that raises nothing."""
        self._records.pop(position, None)
        origin = self.origin(position)
        self.report(
            RecordError(
                str(problem),
                rule=problem.rule,
                file=origin.file,
                record=position,
                identity=origin.identity,
                field=".".join(filter(None, (field, problem.inside))) or None,
            )
        )

    def require(self, field: str, get: Callable[[R], Any], why: str) -> None:
        """Reject the records in which ``get`` finds nothing."""
        for position, record in self.items():
            if get(record) is None:
                self.reject(position, field, Problem(f"is missing{why}"))

    def require_all_or_none(self, field: str, get: Callable[[R], Any]) -> bool:
        """Reject the records in which ``get`` finds nothing if it finds something in others; return if it does."""
        present = any(get(record) is not None for _, record in self.items())
        if present:
            self.require(field, get, ", but other records have it")
        return present


def raise_error(error: InputError) -> NoReturn:
    """Raise an error: the `Report` of readers that stop at the first problem."""
    raise error


def field_problems(error: ValidationError) -> Iterator[tuple[str, Problem]]:
    """Yield the dotted path of every field that pydantic found wrong, and what is wrong with it."""
    for entry in error.errors(include_url=False):
        path = ".".join(map(str, entry["loc"]))
        cause = entry.get("ctx", {}).get("error")
        kind = entry["type"]
        if isinstance(cause, Problem):
            yield path, cause
        elif kind == "missing":
            yield path, Problem("is missing")
        else:
            rule = f"must be {KINDS[kind]}" if kind in KINDS else entry["msg"].replace("Input should be", "must be")
            yield path, Problem(rule, f", got {shown(entry['input'])}")


def read_names(path: Path, setting: str = "data.root", normal: Callable[[str], str] = check_path) -> list[str]:
    """Return the image names, or paths, of a JSON list of strings.

    Args:
        path: of the file.
        setting: the argument by which it was found.
        normal: returns a name as it is used; raises `Problem` for one that can't be.

    Raises:
        InputError: if an entry is no name or leads out of the folder of images, or one is listed twice.
    """
    first: dict[str, int] = {}
    names = read_json(path, list, setting)
    if not names:
        raise InputError("lists no images", file=path)
    for position, listed in enumerate(names):
        if not isinstance(listed, str) or not listed.strip():
            raise InputError(f"must be the name of an image, got {shown(listed)}", file=path, record=position)
        try:
            name = normal(listed)
        except Problem as problem:
            raise InputError(str(problem), file=path, record=position) from None
        if first.setdefault(name, position) != position:
            raise InputError(f"is {shown(name)}, as record {first[name]}", file=path, record=position)
    return list(first)
