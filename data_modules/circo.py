"""CIRCO: composed retrieval on COCO's unlabelled images, with several right answers (Baldrati et al., ICCV 2023)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.evaluation.metrics import AveragePrecisionAt, FirstTargetRecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule, Evaluation
from data_modules.reading.annotations import AnnotationFile, clean, is_kind, read_json, shorten
from data_modules.records import QueryRecord

IMAGE_LIST = Path("annotations") / "image_info_unlabeled2017.json"


class QueryText(ABC):
    """Makes the text of a query from CIRCO's two fields. The relative caption comes last in it.

    Published results differ in this more than in anything else: state it with every figure.
    """

    @property
    @abstractmethod
    def template(self) -> str:
        """The text, with {shared_concept} and {relative_caption} where these go."""

    def compose(self, relative_caption: str, shared_concept: str) -> tuple[str, int]:
        """Return the text, and where the relative caption begins in it once the tokenizer has cleaned both."""
        text = self.template.format(relative_caption=relative_caption, shared_concept=shared_concept)
        before = self.template.removesuffix(".").removesuffix("{relative_caption}")
        # cleaning strips the blank between the two
        return text, len(clean(before.format(shared_concept=shared_concept))) + 1 if before else 0


class RelativeCaption(QueryText):
    """The relative caption alone, as SEARLE, LinCIR and CIReVL use it."""

    template = "{relative_caption}"


class SharedConceptMagicLens(QueryText):
    """The text of MagicLens: ``find {shared_concept} but {relative_caption}``."""

    template = "find {shared_concept} but {relative_caption}"


class SharedConceptSentence(QueryText):
    """The text of ConText-CIR and BGE-VL: ``Find a picture that also {shared_concept}, but {relative_caption}.``"""

    template = "Find a picture that also {shared_concept}, but {relative_caption}."


class CIRCO(CompositionDataModule):
    """CIRCO for validate, test and predict; it has no training split.

    Looks for ``annotations/SPLIT.json`` in ``root`` and ``root/CIRCO``. The gallery is every entry of
    ``COCO2017_unlabeled/annotations/image_info_unlabeled2017.json``, with the images in
    ``COCO2017_unlabeled/unlabeled2017``.

    Scored as on the official server: mAP@k with denominator min(targets, k), and recall@k of the one target that the
    query was written for. ``semantic_aspects`` and the optional integer ``concepts`` of the records give groups for
    which every metric is repeated; the official figure of an aspect is its mAP@10. Optional ``phrases`` have their
    spans in the relative caption.

    Args:
        root: folder with annotations and images.
        val_splits: splits scored by ``validate``.
        test_splits: splits ranked by ``predict``. The labels of test are hidden, so ``test`` needs another split.
        query_text: RelativeCaption, SharedConceptMagicLens or SharedConceptSentence (of the ConText-CIR authors).
        exclude_reference: take the reference out of the gallery; the official metric keeps it in.
        options: see CompositionDataModule.
    """

    benchmark = "circo"

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = ("val",),
        test_splits: Sequence[str] = ("test",),
        query_text: QueryText = SharedConceptSentence(),  # noqa: B008  (immutable; named in the saved config)
        exclude_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self.query_text = query_text
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [base / name for base in self._coco() for name in ("unlabeled2017", "data", "")]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``gt_img_ids`` in any record its labels are hidden."""
        paths, listed_in = self._read_paths()
        file = AnnotationFile(self._find_file(split), "id")
        index = {name: number for number, name in enumerate(paths)}
        records, targets = [], []
        strata: dict[str, list[int]] = {}
        for position in range(len(file)):
            found = self._targets(file, position, paths, listed_in)
            if position and (not found) != (not targets[0]):
                file.fail(0 if found else position, "gt_img_ids", "is missing, but other records have it")
            targets.append(tuple(index[name] for name in found))
            records.append(self._record(file, position, found, paths, listed_in))
            for name in self._groups(file, position):
                strata.setdefault(name, []).append(position)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=file.ids,
            targets=tuple(targets),
            references=tuple(index[record.reference] for record in records),
            exclude_reference=self.exclude_reference,
            metrics=(*FirstTargetRecallAt.at(1, 5, 10, 25, 50), *AveragePrecisionAt.at(5, 10, 25, 50)),
            strata={name: tuple(strata[name]) for name in sorted(strata)},
            headline="map_at_5",
            options={"query_text": self.query_text.template},
        )
        return Evaluation(protocol, tuple(records), paths, file.source)

    def _record(
        self, file: AnnotationFile, position: int, targets: list[str], paths: dict[str, str], listed_in: Path
    ) -> QueryRecord:
        relative = file.get(position, "relative_caption", str)
        text, offset = self.query_text.compose(relative, file.get(position, "shared_concept", str))
        return QueryRecord(
            reference=file.get_image(position, "reference_img_id", paths, listed_in, int),
            caption=text,
            phrases=file.get_phrases(position, text, offset),
            target=targets[0] if targets else None,
            id=file.ids[position],
            image_size=file.get_image_size(position),
        )

    @staticmethod
    def _targets(file: AnnotationFile, position: int, paths: dict[str, str], listed_in: Path) -> list[str]:
        """Return the names of the right answers, the one that the query was written for first."""
        if not file.get_optional(position, "gt_img_ids", list):
            return []
        names = file.get_images(position, "gt_img_ids", paths, listed_in, int)
        first = str(file.get(position, "target_img_id", int))
        if first not in names:
            file.fail(position, "target_img_id", f"is {first}, which is not among gt_img_ids")
        return sorted(names, key=lambda name: name != first)

    @staticmethod
    def _groups(file: AnnotationFile, position: int) -> list[str]:
        aspects = file.get_optional(position, "semantic_aspects", list) or []
        groups = [f"aspect_{file.get(position, f'semantic_aspects.{number}', str)}" for number in range(len(aspects))]
        concepts = file.get_optional(position, "concepts", int)
        return groups if concepts is None else [*groups, f"concepts_{concepts}"]

    def _coco(self) -> list[Path]:
        bases = (self.root, self.root / "CIRCO")
        return [base / name for base in bases for name in ("COCO2017_unlabeled", "")]

    def _find_file(self, split: str) -> Path:
        tried = [base / "annotations" / f"{split}.json" for base in (self.root, self.root / "CIRCO")]
        return first_file(tried, "set --data.root to the folder of CIRCO, or --data.val_splits and --data.test_splits")

    def _read_paths(self) -> tuple[dict[str, str], Path]:
        """Return the file names of the gallery by image id, and the file that lists them."""
        file = first_file(
            [base / IMAGE_LIST for base in self._coco()],
            "it comes with COCO's 2017 unlabeled images (image_info_unlabeled2017.zip); set --data.root",
        )
        listed = read_json(file, dict).get("images")
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"{file}: field images must be a list of images, got {shorten(listed)}")
        paths: dict[str, str] = {}
        for position, image in enumerate(listed):
            identity, path = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
            if not is_kind(identity, int) or not isinstance(path, str):
                raise ValueError(f"image {position} of {file}: needs fields id (an integer) and file_name (a string)")
            if paths.setdefault(str(identity), path) is not path:
                raise ValueError(f"image {position} of {file}: field id is {identity}, as in an image before it")
        return paths, file


def first_file(tried: list[Path], advice: str) -> Path:
    """Return the first of the files that exists.

    Raises:
        FileNotFoundError: if none does; the message lists them.
    """
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no file {' or '.join(str(path) for path in tried)}: {advice}")
