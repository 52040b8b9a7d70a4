"""Official files of Hotel-CIR, the rewritten CIRR captions and LaSCo, turned into manifests."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, field_validator

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import write_text
from data_modules.cirr import CIRRReader
from data_modules.lasco import LaSCoQuestion, LaSCoReader
from data_modules.loading.folders import is_there
from data_modules.reading.annotations import AnnotationFile, Problem, Record, RecordError, check_other, check_path
from data_modules.reading.reader import check_split, user_path
from data_modules.records import Origin

Sentences = Literal["joined", "separate", "first"]


def _as_list(texts: Any) -> Any:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list):
        raise Problem("must be a string", f", got {shown(texts)}")
    return texts


def _without_blanks(texts: list[str]) -> list[str]:
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise Problem("holds no text")
    return texts


# The sentences of a field that holds one, or a list of them; blank ones do not count.
Texts = Annotated[list[str], BeforeValidator(_as_list), AfterValidator(_without_blanks)]


class Converted(NamedTuple):
    """What a record becomes.

    ``records``: of the manifest, with ``reference``, ``target``, ``caption``, and fields kept for the user.
    ``distractors``: images that the record adds to the gallery beside its reference and target.
    """

    origin: Origin
    records: list[dict[str, Any]]
    distractors: list[str]


class Conversion(NamedTuple):
    """Records of a manifest, every image of their gallery, and how many records were left out, by reason."""

    records: list[dict[str, Any]]
    gallery: list[str]
    broken: Counter[str]


class Converter(ABC):
    """Turns the records of an official file into those of a manifest.

    ``model``: validates a record.
    """

    model: ClassVar[type[Record]]

    @abstractmethod
    def find_file(self) -> Path:
        """Return the official file."""

    @abstractmethod
    def convert(self, record: Any) -> list[dict[str, Any]]:
        """Return the records of the manifest that a valid record becomes."""

    def context(self) -> Any:
        """Return the context of the model's validators."""
        return None

    def distractors(self, record: Any) -> list[str]:
        """Return the images that a record adds to the gallery beside its reference and target."""
        return []

    def gallery(self, records: Iterable[dict[str, Any]], distractors: Iterable[str]) -> list[str]:
        """Return the images of the gallery: all references, targets and distractors."""
        pairs = (record[field] for record in records for field in ("reference", "target"))
        return list(dict.fromkeys([*pairs, *distractors]))

    def read(self, skip_broken: bool = False) -> tuple[list[Converted], Counter[str]]:
        """Return what each record becomes, in the order of the file, and how many were left out, by reason.

        Args:
            skip_broken: leave out records that can't be converted, instead of raising an error.

        Raises:
            MissingFileError: if the file is missing.
            InputError: if it is no list of records, or a record is broken.
        """
        broken: Counter[str] = Counter()
        seen: set[int | None] = set()

        def report(error: InputError) -> None:
            if not skip_broken:
                raise InputError(
                    f"{error.without_setting()}: correct it, or leave such records out", setting="skip_broken"
                )
            if error.record not in seen and isinstance(error, RecordError):  # a record counts once
                names = [part for part in (error.field or "").split(".") if not part.isdecimal()]
                broken[" ".join(filter(None, ("field", ".".join(names), error.rule)))] += 1
            seen.add(error.record)

        path = self.find_file()
        file = AnnotationFile(path, self.model, context=self.context(), report=report)
        try:
            valid = file.items()
        except InputError as error:
            if not broken:
                raise
            problem = f"none of its {len(seen)} records can be converted, e.g. {next(iter(broken))}"
            raise InputError(problem, file=error.file) from None
        converted = [
            Converted(file.origin(position), self.convert(record), self.distractors(record))
            for position, record in valid
        ]
        return converted, broken

    def run(self, skip_broken: bool = False) -> Conversion:
        """Convert all records; arguments and errors as of `read`."""
        converted, broken = self.read(skip_broken)
        records = [record for entry in converted for record in entry.records]
        distractors = [image for entry in converted for image in entry.distractors]
        return Conversion(records, self.gallery(records, distractors), broken)


def _hotel_path(address: str, info: ValidationInfo) -> str:
    parts = url_path(address).parts
    if len(parts) < 3 or "/" in parts[-3:]:
        raise Problem("must be a path of at least three parts", f", got {shown(address)}")
    return check_path("/".join((info.context, *parts[-3:])))


HotelImage = Annotated[str, AfterValidator(_hotel_path)]


class HotelRecord(Record):
    """A triplet of Hotel-CIR; paths become relative to its root."""

    query_image: HotelImage
    result_image: HotelImage
    difference: Texts
    distractors: list[HotelImage] | None = None

    @field_validator("result_image")
    @classmethod
    def _check_target(cls, target: str, info: ValidationInfo) -> str:
        check_other(target, info.data.get("query_image"))
        return target


class HotelConverter(Converter):
    """Hotel-CIR: ``captions/hotel_SPLIT_data.json``; image paths become relative to its folder ``root``.

    Args:
        root: folder with ``captions`` and ``images``.
        split: train, val or test.
    """

    model = HotelRecord

    def __init__(self, root: str | Path, split: str) -> None:
        self.root = user_path(root, "data.root")
        self.split = split

    def find_file(self) -> Path:
        check_split(self.split)
        return _existing(self.root / "captions" / f"hotel_{self.split}_data.json")

    def context(self) -> str:
        return "images/train" if self.split == "train" else "images/val_test"

    def convert(self, record: HotelRecord) -> list[dict[str, Any]]:
        caption = " ".join(record.difference)
        return [{"reference": record.query_image, "target": record.result_image, "caption": caption}]

    def distractors(self, record: HotelRecord) -> list[str]:
        return record.distractors or []


def _cirr_path(address: str, info: ValidationInfo) -> str:
    paths, listed_in = info.context
    name = url_path(address).name.removesuffix(".png")
    if name not in paths:
        raise Problem(f"names an image that is not in {listed_in}", f": {shown(name)}")
    return paths[name].removeprefix("./")


CIRRAddress = Annotated[str, AfterValidator(_cirr_path)]


class RewrittenRecord(Record):
    """A pair of CIRR with other captions; addresses become the paths of CIRR's image list."""

    query_image_url: CIRRAddress
    retrieved_image_url: CIRRAddress
    difference_captions: Texts

    @field_validator("retrieved_image_url")
    @classmethod
    def _check_target(cls, target: str, info: ValidationInfo) -> str:
        check_other(target, info.data.get("query_image_url"))
        return target


class RewrittenConverter(Converter):
    """CIRR-rewritten: ``rewritten_captions/rewritten_SPLIT.json``; image paths become those of CIRR's image list.

    It has other captions for some pairs of CIRR, mostly several sentences for each.

    Args:
        root: folder of CIRR.
        split: of CIRR, e.g. train.
        captions: the file; None for the one in ``root``.
        sentences: one caption of all sentences, one triplet for each, or the first sentence alone (as published code).
    """

    model = RewrittenRecord

    def __init__(
        self, root: str | Path, split: str, captions: Path | None = None, sentences: Sentences = "joined"
    ) -> None:
        self.root = user_path(root, "data.root")
        check_split(split)
        self.captions = captions or self.root / "rewritten_captions" / f"rewritten_{split}.json"
        self.sentences = sentences
        self._listed = CIRRReader(self.root).read_paths(split)

    def find_file(self) -> Path:
        return _existing(Path(self.captions))

    def context(self) -> tuple[dict[str, str], Path]:
        return self._listed

    def convert(self, record: RewrittenRecord) -> list[dict[str, Any]]:
        texts = record.difference_captions
        chosen = {"joined": [" ".join(texts)], "separate": texts, "first": texts[:1]}[self.sentences]
        pair = {"reference": record.query_image_url, "target": record.retrieved_image_url}
        return [{**pair, "caption": caption} for caption in chosen]


class LaSCoConverter(Converter):
    """LaSCo: ``lasco_SPLIT.json``; image paths become relative to the folder with COCO's train2014 and val2014.

    The gallery is the corpus of the split where that is present. The question id is kept as ``qid``.

    Args:
        root: folder of LaSCo.
        split: train or val.
    """

    model = LaSCoQuestion

    def __init__(self, root: str | Path, split: str) -> None:
        self.reader = LaSCoReader(root)
        self.split = split
        try:
            self.corpus, _ = self.reader.read_corpus(split)
        except MissingFileError:
            self.corpus = {}

    def find_file(self) -> Path:
        return self.reader.find_file(self.split)

    def convert(self, record: LaSCoQuestion) -> list[dict[str, Any]]:
        reference, target = self._path(record.reference), self._path(record.target)
        return [{"reference": reference, "target": target, "caption": record.caption, "qid": record.qid}]

    def gallery(self, records: Iterable[dict[str, Any]], distractors: Iterable[str]) -> list[str]:
        return list(self.corpus.values()) if self.corpus else super().gallery(records, distractors)

    def _path(self, image: tuple[int, str]) -> str:
        # The corpus writes paths in another way than the triplets, so images are looked up by their id.
        return self.corpus.get(str(image[0]), image[1])


def url_path(address: str) -> PurePosixPath:
    """Return the path in a URL, or a plain path as it is."""
    try:
        parts = urlsplit(address)
    except ValueError as error:  # of its host
        raise Problem("is no address", f": {shown(address)} ({error})") from None
    return PurePosixPath(unquote(parts.path) if parts.scheme and parts.netloc else address)


def check_manifest(path: Path, setting: str, suffixes: Sequence[str] = (".json", ".jsonl")) -> None:
    """Raise InputError unless a manifest can have this name."""
    if path.suffix not in suffixes:
        problem = f"the name of this file must end in {' or '.join(suffixes)}"
        raise InputError(problem, file=path, setting=setting)
    if is_there(path) and not path.is_file():
        raise InputError("expected a file, or a new name", file=path, setting=setting)


def write_manifest(path: Path, content: list[Any]) -> None:
    """Write a JSON list, or one JSON value per line if the name ends in ``.jsonl``; complete or not at all.

    Raises:
        InputError: if the name ends otherwise, or there is something else than a file.
    """
    check_manifest(path, "out")
    lines = [json.dumps(value, ensure_ascii=False) for value in content]
    text = "\n".join(lines) if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror}", file=path, setting="out") from None


def _existing(path: Path) -> Path:
    if not is_there(path):
        expected = "expected the folder of the official files, and one of their splits"
        raise MissingFileError(f"no file {path}: {expected}", setting="data.root")
    return path
