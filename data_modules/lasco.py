"""LaSCo: composed retrieval on COCO 2014, made from VQA 2.0 (Levy et al., AAAI 2024)."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from contextcir.errors import shown
from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.reading.annotations import AnnotationFile, CaptionRecord, Problem, Record, check_path
from data_modules.reading.reader import BenchmarkReader, Counts, find_file, paths_by_id, positions_of
from data_modules.records import Evaluation, Origin, QueryRecord, TrainingSet

PLACES = ("", "downloads", "LaSCo", "LaSCo/downloads", "annotations")


class LaSCoCaption(CaptionRecord):
    """The text of a query."""

    caption: str = Field(alias="query-text")

    def texts(self) -> list[str]:
        """Return the text."""
        return [self.caption]


def _as_pair(image: Any) -> Any:
    if not isinstance(image, list):
        raise Problem("must be a list", f", got {shown(image)}")
    return tuple(image[:2])


def _coco_path(path: str) -> str:
    return check_path(coco_path(path))


CocoPath = Annotated[str, AfterValidator(_coco_path)]
ListedImage = Annotated[tuple[int, CocoPath], BeforeValidator(_as_pair)]  # COCO id and path


class LaSCoRecord(LaSCoCaption):
    """A triplet of LaSCo; records have no key."""

    reference: ListedImage = Field(alias="query-image")
    target: ListedImage = Field(alias="target-image")

    @field_validator("target")
    @classmethod
    def _check_target(cls, target: tuple[int, str], info: ValidationInfo) -> tuple[int, str]:
        if "reference" in info.data and target[0] == info.data["reference"][0]:
            raise Problem("is the query image itself", f": {target[0]}", inside="0")
        return target


class LaSCoQuestion(LaSCoRecord):
    """A triplet with the question of VQA that it was made from."""

    qid: int


class CorpusImage(Record):
    """An image of the corpus."""

    id: int
    path: CocoPath


class LaSCoReader(BenchmarkReader):
    """LaSCo as its authors distribute it, with COCO's images of 2014.

    Looks for ``lasco_SPLIT.json`` and ``lasco_SPLIT_corpus.json`` in ``root`` and its sub-folders downloads, LaSCo,
    LaSCo/downloads and annotations, and for ``train2014`` and ``val2014`` in ``root``, ``coco``, ``images`` and others.
    Images are known by their COCO id, as the corpus lists its paths with one more folder than the queries do. Training
    needs no corpus.

    Scored by recall@k for k up to 1,000 on the corpus (39,826 images for val).

    Args:
        root: folder with annotations and images.
        exclude_reference: take the reference out of the gallery; by default it is kept in.
    """

    benchmark = "lasco"
    expected: ClassVar[Counts] = {"train": {}, "val": {"gallery": 39_826}}
    total = 389_305
    training_splits = frozenset({"train"})
    captions = LaSCoCaption

    def __init__(self, root: str | Path, exclude_reference: bool = False) -> None:
        super().__init__(root)
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to."""
        bases = [self.root / base for base in ("", "coco", "COCO", "images", "LaSCo", "LaSCo/coco")]
        return [base / name for base in bases for name in ("", "val", "train")]

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split."""
        file = AnnotationFile(self.find_file(split), LaSCoRecord, report=self.report)
        paths: dict[str, str] = {}
        return TrainingSet(self._queries(file, paths), paths, str(file.path))

    def training_files(self, split: str) -> list[Path]:
        """Return the file of the split's triplets."""
        return [self.find_file(split)]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split, ranked on its corpus."""
        paths, listed_in = self.read_corpus(split)
        gallery = tuple(paths)
        file = AnnotationFile(self.find_file(split), LaSCoRecord, report=self.report)
        index = positions_of(gallery)
        for position, record in file.items():
            target = str(record.target[0])
            if target not in index:
                problem = Problem(f"names image {shown(target)}, which is not in {listed_in}")
                file.reject(position, "target-image.0", problem)
        records = self._queries(file, paths)  # adds references that are not in the corpus
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=tuple(record.id for record in records),
            targets=tuple((index[record.target],) for record in records),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=self.exclude_reference,
            metrics=RecallAt.at(1, 5, 10, 50, 100, 500, 1000),
            headline="recall_at_1",
            version=self.protocol_version,
        )
        return Evaluation(protocol, records, paths)

    @staticmethod
    def _queries(file: AnnotationFile[LaSCoRecord], paths: dict[str, str]) -> tuple[QueryRecord, ...]:
        """Return the records, and put the paths of their images among the known ones."""

        def query(record: LaSCoRecord, origin: Origin) -> QueryRecord:
            for field, (number, listed) in (("query-image", record.reference), ("target-image", record.target)):
                known = paths.setdefault(str(number), listed)
                if known != listed:
                    raise Problem(f"is {shown(listed)}, but elsewhere {number} is {known}", inside=f"{field}.1")
            reference, target = str(record.reference[0]), str(record.target[0])
            return QueryRecord(reference, record.caption, target=target, id=origin.position, origin=origin)

        return tuple(file.build(query).values())

    def read_corpus(self, split: str) -> tuple[dict[str, str], Path]:
        """Return the paths of a split's corpus by image id, and the file that lists them."""
        path = self._find_file("lasco_{split}_corpus.json", split)
        images = AnnotationFile(path, CorpusImage, "id")
        return paths_by_id(images, lambda image: (image.id, image.path), "path"), path

    def find_file(self, split: str) -> Path:
        """Return the file of a split's triplets."""
        return self._find_file("lasco_{split}.json", split)

    def _find_file(self, name: str, split: str) -> Path:
        return find_file(name, split, [self.root / place for place in PLACES], "LaSCo")


def coco_path(path: str) -> str:
    """Return the last folder and the file name of a path: ``val2014/COCO_val2014_000000000042.jpg``."""
    return "/".join(path.rsplit("/", 2)[-2:])
