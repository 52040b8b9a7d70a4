"""CIRR as MTEB scores it: one corpus of the images of all splits, several right answers, the reference among them."""

from collections.abc import Mapping
from typing import ClassVar

from contextcir.errors import MissingFileError
from contextcir.evaluation.gain import NDCG, NDCGAt
from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.cirr import CIRRQuery, CIRRReader
from data_modules.reading.annotations import Listed, Problem
from data_modules.reading.reader import Counts, positions_of
from data_modules.records import Evaluation, Origin, QueryRecord

SPLITS = ("val", "test1", "train")


class MTEBCIRRReader(CIRRReader):
    """The files of CIRR, scored as MTEB's task CIRRIT2IRetrieval does, so that both numbers can be put side by side.

    MTEB's task file names the data set ``MRBench/mbeir_cirr_task7``, the split test and ndcg_at_10. How M-BEIR makes
    that of CIRR is read from UniIR's ``src/data/preprocessing/cirr_data_preprocessor.py``: its test split is CIRR's
    val; the corpus is all images of the three split files (21,551), the reference among them; an image is relevant if
    ``target_soft`` gives it 1.0; queries without one are left out; and queries of one reference and one text become
    one. From CIRR's val file these rules give 4,170 queries, as MTEB has. Texts are M-BEIR's: stripped, with a capital
    letter and a full stop (`query_text`). Noun phrases of the records are not kept, as their places change.

    Not verified against the published data set: the order of ties (trec_eval's, here against the target), and images,
    which M-BEIR shrinks to 256 pixels and saves as JPEG.
    """

    benchmark = "cirr_mteb"
    expected: ClassVar[Counts] = {"val": {"queries": 4_170, "gallery": 21_551}}
    training_splits: ClassVar[frozenset[str]] = frozenset()

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split with ``target_soft``, which val is."""
        own, listed_in = self.read_paths(split)
        paths = dict(own)
        for other in SPLITS:
            if other != split:
                try:
                    paths = {**self.read_paths(other)[0], **paths}
                except MissingFileError as error:
                    error.problem = f"MTEB's corpus has the images of all splits: {error.problem}"
                    raise
        file = self.open_captions(split, CIRRQuery, Listed(own, listed_in))
        file.require("target_soft", lambda record: record.target_soft, ": MTEB has no query without labels")
        queries: dict[tuple[str, str], QueryRecord] = {}
        relevant: dict[tuple[str, str], dict[str, None]] = {}
        for record, positive in file.build(_query).values():
            if positive and record.caption:
                key = record.reference, record.caption
                queries.setdefault(key, record)
                relevant.setdefault(key, {}).update(dict.fromkeys(positive))
        records, index = tuple(queries.values()), positions_of(paths)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=tuple(record.id for record in records),
            targets=tuple(tuple(index[name] for name in names) for names in relevant.values()),
            references=tuple(index[record.reference] for record in records),
            exclude_reference=False,
            metrics=(*NDCGAt.at(10), *RecallAt.at(1, 5, 10, 50), NDCG()),
            headline="ndcg_at_10",
            options={
                "scored_as": "MTEB CIRRIT2IRetrieval",
                "corpus": "images of all splits",
                "relevant": "target_soft of 1.0",
                "query_text": "as M-BEIR writes it",
            },
            version=self.protocol_version,
        )
        return Evaluation(protocol, records, paths)


def _query(record: CIRRQuery, origin: Origin) -> tuple[QueryRecord, list[str]]:
    """Return a record with M-BEIR's text, and its right answers; the first one may be the reference."""
    grades: Mapping[str, float] = record.target_soft or {}
    positive = [name for name, relevance in grades.items() if relevance == 1.0]
    if record.target_hard is None:
        raise Problem("is missing", inside="target_hard")
    target = record.target_hard if record.target_hard in positive else next(iter(positive), None)
    text = query_text(record.caption)
    return QueryRecord(record.reference, text, target=target, id=record.pairid, origin=origin), positive


def query_text(caption: str) -> str:
    """Return a caption as M-BEIR writes it (``format_string`` of UniIR); "" for a blank one."""
    text = caption.replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."
