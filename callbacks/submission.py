"""What ``predict`` leaves: files for the evaluation servers of CIRR and CIRCO, and of other benchmarks the ranking."""

import json
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import EvaluationEmbeddings
from contextcir.evaluation.nearest import ranked_lists, ranking
from contextcir.evaluation.submission import SubmissionFormat, formats_of, make
from contextcir.evaluation.submission_check import check, parse
from contextcir.files import write_text

FOLDER = "submission"
RANKING = "ranking"
LENGTH = 100  # images of a query in a ranking


class SubmissionFiles(Callback):
    """Write what ``predict`` ranks in the formats of the CIRR and CIRCO servers.

    The files go to ``submission/`` in the run's folder: ``cirr_test1_recall.json`` and
    ``cirr_test1_recall_subset.json``, ``circo_test.json``; each is checked before it is written. The reference is never
    in CIRR's lists; in CIRCO's it competes unless the data module excludes it. Equal scores follow the order of the
    gallery.

    A benchmark without a server, or with missing images, gets a ranking in their place: ``ranking/manifest_val.jsonl``
    in the run's folder has a line ``{"query": ID, "images": [NAME, ...], "scores": [COSINE, ...]}`` for each query, of
    the first 100 images. One that was predicted only in part gets neither: a warning says so.

    With several ranks, each embeds its part, all rank the queries, and one writes. As the features of a whole benchmark
    do not fit into memory, ``Trainer.predict`` returns nothing with this callback.
    """

    def __init__(self) -> None:
        self._embedded: list[EmbeddedProtocol] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the trainer from collecting the features of all batches, which would not fit into memory."""
        if stage == "predict":
            trainer.predict_loop.return_predictions = False

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty; say which protocols get a ranking before anything is encoded."""
        self._embedded = []
        for protocol in trainer.datamodule.protocols("predict"):
            missing = getattr(trainer.datamodule, "missing_images", lambda split: 0)(protocol.split)
            reason = "" if formats_of(protocol) else "it has no evaluation server"
            if missing:  # queries that need them are left out, and the server rejects files without them
                reason = f"{missing:,} of its images are missing"
                rank_zero_warn(
                    f"{protocol.benchmark} {protocol.split}: no submission file will be written, as {reason}"
                )
            embedded = EmbeddedProtocol(protocol) if not reason else EmbeddedRanking(protocol)
            self._embedded.append(embedded.to(pl_module.device))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the embeddings of a batch."""
        embedded = self._embedded[dataloader_idx // 2]  # loaders come in pairs: gallery, queries
        if isinstance(batch, GalleryBatch):
            embedded.update_gallery(batch.index, outputs.embedding)
        else:
            embedded.update_queries(batch.index, outputs.fused.embedding)

    @torch.no_grad()
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank, and write the files; all ranks take part."""
        for embedded in self._embedded:
            for name, text in embedded.compute().items():
                path = Path(trainer.default_root_dir) / embedded.folder / name
                if trainer.is_global_zero:
                    write_text(path, text)
                rank_zero_info(f"{embedded.what}: {path} ({len(text):,} bytes)")
        self._embedded = []


class EmbeddedProtocol(EvaluationEmbeddings):
    """The embeddings of a protocol, gathered over the ranks as for scoring, that become files instead of figures."""

    folder, what = FOLDER, "submission file"

    def compute(self) -> dict[str, str]:
        """Return the text of every file by its name; {} if only a part was embedded.

        Raises:
            InputError: if an embedding is not finite.
            ValueError: if a file would be rejected.
        """
        protocol = self.protocol
        what = f"{protocol.benchmark}_{protocol.split}"
        queries, query_index = self.queries()
        gallery, gallery_index = self.gallery()
        seen, expected = (len(query_index), len(gallery_index)), (len(protocol.query_ids), len(protocol.gallery))
        if seen != expected:
            rank_zero_warn(
                f"{what}: saw {seen[0]} of {expected[0]} queries and {seen[1]} of {expected[1]} gallery images: "
                f"no {self.what} is written"
            )
            return {}
        return self.files(what, queries, gallery)

    def files(self, what: str, queries: Tensor, gallery: Tensor) -> dict[str, str]:
        """Return the text of every file by its name."""
        files, protocol = {}, self.protocol
        for form in formats_of(protocol):
            text = make(form, protocol, self.lists(form, queries, gallery))
            problems = check(form, protocol, parse(text.encode()))
            if problems:
                raise ValueError(f"{what}: the submission file would be rejected: {problems[0]}")
            files["_".join(filter(None, (what, form.name))) + ".json"] = text
        return files

    def lists(self, form: SubmissionFormat, queries: Tensor, gallery: Tensor) -> list[list[int]]:
        """Return the images of every query, best first."""
        return ranked_lists(form, self.protocol, queries, gallery)


class EmbeddedRanking(EmbeddedProtocol):
    """The same for a protocol that no server scores: one file of the nearest images of every query."""

    folder, what = RANKING, "ranking"

    def files(self, what: str, queries: Tensor, gallery: Tensor) -> dict[str, str]:
        """Return the text of the file by its name."""
        protocol, lines = self.protocol, []
        for query, images, cosines in ranking(protocol, queries, gallery, LENGTH):
            names, scores = [protocol.gallery[image] for image in images], [round(cosine, 6) for cosine in cosines]
            lines.append(json.dumps({"query": protocol.query_ids[query], "images": names, "scores": scores}) + "\n")
        return {f"{what}.jsonl": "".join(lines)}
