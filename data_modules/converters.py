"""Official files of Hotel-CIR, the rewritten CIRR captions and LaSCo, turned into manifests."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from data_modules.cirr import CIRR
from data_modules.lasco import LaSCo, coco_path
from data_modules.reading.annotations import KeylessFile, shorten

Sentences = Literal["joined", "separate", "first"]


class BrokenRecord(ValueError):
    """A record that can't be converted. ``reason``: what is wrong with it, without what its fields hold."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OfficialFile(KeylessFile):
    """A JSON list of records, of which some may be broken."""

    def fail(self, position: int, field: str, problem: str) -> NoReturn:
        """Raise the `BrokenRecord` that names file, record and field."""
        name = self.source.name(self.positions[position], None) if self.ids else f"record {position} of {self.path}"
        # values are at the end of a message, behind a colon or "got"
        kind = re.split(r": |, got ", problem)[0]
        raise BrokenRecord(f"{name}: field {field} {problem}", f"field {re.sub(r'[.][0-9]+', '', field)} {kind}")

    def get_texts(self, position: int, field: str) -> list[str]:
        """Return the sentences of a field that holds one, or a list of them; blank ones do not count."""
        if isinstance(self.find(position, field), list):
            listed = range(len(self.get(position, field, list)))
            texts = [self.get(position, f"{field}.{number}", str).strip() for number in listed]
        else:
            texts = [self.get(position, field, str).strip()]
        texts = [text for text in texts if text]
        if not texts:
            self.fail(position, field, "holds no text")
        return texts


class Conversion(NamedTuple):
    """Records of a manifest, every image of their gallery, and how many records were left out, by reason."""

    records: list[dict[str, Any]]
    gallery: list[str]
    broken: Counter[str]


class Converter(ABC):
    """Turns the records of an official file into those of a manifest."""

    @abstractmethod
    def find_file(self) -> Path:
        """Return the official file."""

    @abstractmethod
    def convert(self, file: OfficialFile, position: int) -> list[dict[str, Any]]:
        """Return what a record becomes: ``reference``, ``target``, ``caption``, and fields kept for the user."""

    def distractors(self, file: OfficialFile, position: int) -> list[str]:
        """Return the images that a record adds to the gallery beside its reference and target."""
        return []

    def gallery(self, records: Iterable[dict[str, Any]], distractors: Iterable[str]) -> list[str]:
        """Return the images of the gallery: all references, targets and distractors."""
        pairs = (record[field] for record in records for field in ("reference", "target"))
        return list(dict.fromkeys([*pairs, *distractors]))

    def run(self, skip_broken: bool = False) -> Conversion:
        """Convert all records.

        Args:
            skip_broken: leave out records that can't be converted, instead of raising an error.

        Raises:
            FileNotFoundError, ValueError: if a file is missing or no list of records, or a record is broken; the
                message names file, record and field.
        """
        file = OfficialFile(self.find_file())
        records, distractors, broken = [], [], Counter()
        for position in range(len(file)):
            try:
                converted, added = self.convert(file, position), self.distractors(file, position)
            except BrokenRecord as error:
                if not skip_broken:
                    raise ValueError(f"{error} (to leave such records out: --skip-broken)") from None
                broken[error.reason] += 1
                continue
            records += converted
            distractors += added
        if not records:
            raise ValueError(
                f"{file.path}: none of its {len(file)} records can be converted, e.g. {next(iter(broken))}"
            )
        return Conversion(records, self.gallery(records, distractors), broken)


class HotelConverter(Converter):
    """Hotel-CIR: ``captions/hotel_SPLIT_data.json``; image paths become relative to its folder ``root``.

    Args:
        root: folder with ``captions`` and ``images``.
        split: train, val or test.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root = Path(root)
        self.split = split
        self.folder = "images/train" if split == "train" else "images/val_test"

    def find_file(self) -> Path:
        return _existing(self.root / "captions" / f"hotel_{self.split}_data.json")

    def convert(self, file: OfficialFile, position: int) -> list[dict[str, Any]]:
        reference, target = (self._image(file, position, field) for field in ("query_image", "result_image"))
        _check_different(file, position, reference, target, "result_image")
        caption = " ".join(file.get_texts(position, "difference"))
        return [{"reference": reference, "target": target, "caption": caption}]

    def distractors(self, file: OfficialFile, position: int) -> list[str]:
        listed = file.get_optional(position, "distractors", list) or []
        return [self._image(file, position, f"distractors.{number}") for number in range(len(listed))]

    def _image(self, file: OfficialFile, position: int, field: str) -> str:
        parts = url_path(file.get(position, field, str)).parts
        if len(parts) < 3 or "/" in parts[-3:]:
            listed = shorten(file.get(position, field, str))
            file.fail(position, field, f"must be a path of at least three parts, got {listed}")
        return "/".join((self.folder, *parts[-3:]))


class RewrittenConverter(Converter):
    """CIRR-rewritten: ``rewritten_captions/rewritten_SPLIT.json``; image paths become those of CIRR's image list.

    It has other captions for some pairs of CIRR, mostly several sentences for each.

    Args:
        root: folder of CIRR.
        split: of CIRR, e.g. train.
        captions: the file; None for the one in ``root``.
        sentences: one caption of all sentences, one triplet for each, or the first sentence alone (as published code).
    """

    def __init__(self, root: Path, split: str, captions: Path | None = None, sentences: Sentences = "joined") -> None:
        self.root = Path(root)
        self.captions = captions or self.root / "rewritten_captions" / f"rewritten_{split}.json"
        self.sentences = sentences
        self.paths, self.listed_in = CIRR(self.root, train_split=split)._read_paths(split)

    def find_file(self) -> Path:
        return _existing(Path(self.captions))

    def convert(self, file: OfficialFile, position: int) -> list[dict[str, Any]]:
        fields = ("query_image_url", "retrieved_image_url")
        reference, target = (self._image(file, position, field) for field in fields)
        _check_different(file, position, reference, target, fields[1])
        texts = file.get_texts(position, "difference_captions")
        chosen = {"joined": [" ".join(texts)], "separate": texts, "first": texts[:1]}[self.sentences]
        return [{"reference": reference, "target": target, "caption": caption} for caption in chosen]

    def _image(self, file: OfficialFile, position: int, field: str) -> str:
        name = url_path(file.get(position, field, str)).name.removesuffix(".png")
        if name not in self.paths:
            file.fail(position, field, f"names an image that is not in {self.listed_in}: {shorten(name)}")
        return self.paths[name].removeprefix("./")


class LaSCoConverter(Converter):
    """LaSCo: ``lasco_SPLIT.json``; image paths become relative to the folder with COCO's train2014 and val2014.

    The gallery is the corpus of the split where that is there. The question id is kept as ``qid``.

    Args:
        root: folder of LaSCo.
        split: train or val.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.module = LaSCo(root, train_split=split)
        self.split = split
        try:
            self.corpus, _ = self.module._read_corpus(split)
        except FileNotFoundError:
            self.corpus = {}

    def find_file(self) -> Path:
        return self.module._find_file(f"lasco_{self.split}.json")

    def convert(self, file: OfficialFile, position: int) -> list[dict[str, Any]]:
        reference, target = (self._image(file, position, field) for field in ("query-image", "target-image"))
        _check_different(file, position, reference, target, "target-image")
        caption = file.get(position, "query-text", str)
        qid = file.get(position, "qid", int)
        return [{"reference": reference, "target": target, "caption": caption, "qid": qid}]

    def gallery(self, records: Iterable[dict[str, Any]], distractors: Iterable[str]) -> list[str]:
        return list(self.corpus.values()) if self.corpus else super().gallery(records, distractors)

    def _image(self, file: OfficialFile, position: int, field: str) -> str:
        identity = str(file.get(position, f"{field}.0", int))
        path = coco_path(file.get(position, f"{field}.1", str))
        return self.corpus.get(identity, path)  # the corpus writes paths otherwise, so images are looked up by id


def url_path(address: str) -> PurePosixPath:
    """Return the path in a URL, or a plain path as it is."""
    parts = urlsplit(address)
    return PurePosixPath(unquote(parts.path) if parts.scheme and parts.netloc else address)


def write_manifest(path: Path, content: list[Any]) -> None:
    """Write a JSON list, or one JSON value per line if the name ends in ``.jsonl``; complete or not at all.

    Raises:
        ValueError: if the name ends otherwise.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path}: the name of a manifest must end in .json or .jsonl")
    lines = [json.dumps(value, ensure_ascii=False) for value in content]
    text = "\n".join(lines) if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.name}.{os.getpid()}.part")
    staging.write_text(text + "\n", encoding="utf-8")
    staging.replace(path)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: set --root to the folder of the official files, or --split")
    return path


def _check_different(file: OfficialFile, position: int, reference: str, target: str, field: str) -> None:
    if target == reference:
        file.fail(position, field, f"is the reference itself: {shorten(target)}")
