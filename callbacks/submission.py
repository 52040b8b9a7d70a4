"""Submission files: what ``predict`` leaves for the evaluation servers of CIRR and CIRCO."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.results import replace_text
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.metrics import CompositionMetric
from contextcir.evaluation.submission import formats_of, make, ranked_lists
from contextcir.evaluation.submission_check import check, parse

FOLDER = "submission"


class SubmissionFiles(Callback):
    """Write what ``predict`` ranks in the formats of the CIRR and CIRCO servers.

    The files go to ``submission/`` in the run's folder: ``cirr_test1_recall.json`` and
    ``cirr_test1_recall_subset.json``, ``circo_test.json``; each is checked before it is written. The reference is never
    in CIRR's lists; in CIRCO's it competes unless the data module excludes it. Equal scores follow the order of the
    gallery. A benchmark that has no server gets no file, nor does one that was predicted in part only, or without some
    of its images: a warning says so.

    Under several ranks each embeds its part, all rank them, and one writes. As the features of a whole benchmark do not
    fit into memory, ``Trainer.predict`` returns nothing when this callback is there.
    """

    def __init__(self) -> None:
        self._embedded: list[EmbeddedProtocol | None] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the trainer from collecting the features of all batches."""
        if stage == "predict":
            trainer.predict_loop.return_predictions = False

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing; say for which protocols there will be no file before anything is encoded."""
        self._embedded = []
        for protocol in trainer.datamodule.protocols("predict"):
            missing = getattr(trainer.datamodule, "missing_images", lambda split: 0)(protocol.split)
            reason = "" if formats_of(protocol) else "it has no evaluation server"
            if missing:  # with them go queries, which a server asks for
                reason = f"{missing:,} of its images are missing"
            if reason:
                rank_zero_warn(
                    f"{protocol.benchmark} {protocol.split}: no submission file will be written, as {reason}"
                )
            self._embedded.append(None if reason else EmbeddedProtocol(protocol).to(pl_module.device))

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
        if embedded is None:
            return
        if isinstance(batch, GalleryBatch):
            embedded.update_gallery(batch.index, outputs.embedding)
        else:
            embedded.update_queries(batch.index, outputs.fused.embedding)

    @torch.no_grad()
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank, and write the files; all ranks take part."""
        for embedded in (embedded for embedded in self._embedded if embedded is not None):
            for name, text in embedded.files().items():
                path = Path(trainer.default_root_dir) / FOLDER / name
                if trainer.is_global_zero:
                    replace_text(path, text)
                rank_zero_info(f"submission file: {path} ({len(text):,} bytes)")
        self._embedded = []


class EmbeddedProtocol(CompositionMetric):
    """The embeddings of a protocol, gathered over the ranks as for scoring, that become files instead of figures."""

    def files(self) -> dict[str, str]:
        """Return the text of every file by its name, {} where only a part was embedded.

        Raises:
            ValueError: if a file would be rejected, or an embedding is not finite.
        """
        protocol = self.protocol
        what = f"{protocol.benchmark}_{protocol.split}"
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            queries, query_index = self._mean_of_views()
            gallery, gallery_index = self._seen("gallery", len(protocol.gallery))
        seen, expected = (len(query_index), len(gallery_index)), (len(protocol.query_ids), len(protocol.gallery))
        if seen != expected:
            rank_zero_warn(
                f"{what}: saw {seen[0]} of {expected[0]} queries and {seen[1]} of {expected[1]} gallery images: "
                "no submission file is written"
            )
            return {}
        files = {}
        for form in formats_of(protocol):
            text = make(form, protocol, ranked_lists(form, protocol, queries, gallery))
            problems = check(form, protocol, parse(text.encode()))
            if problems:
                raise ValueError(f"{what}: the submission file would be rejected: {problems[0]}")
            files["_".join(filter(None, (what, form.name))) + ".json"] = text
        return files
