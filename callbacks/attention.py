"""Where the model looks: heat maps of noun phrases for a fixed sample of queries, and the pointing game."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.evaluation import EvaluationCallback
from callbacks.results import add_results
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.checks import whole
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.grounding import AttentionInside, PhraseMetric, PointingGame
from contextcir.losses.maps import phrase_attention

MOST_FIGURES = 1000  # their queries are one batch


class AttentionFigures(EvaluationCallback):
    """Draw the attention of noun phrases over the reference image, and score how well it points at their objects.

    A phrase's map is the mean in-context attention of the patches to the keys of the phrase (its tokens, unless the
    fusion has other keys), over layers and heads. Figures go to ``attention/epoch_NNN/query_ID.png``
    (``attention/validate``, ``attention/test`` outside of training) in the run's folder, and to W&B where that is a
    logger. The score over all queries whose phrases have boxes is logged as ``val_pointing_game``, with what a random
    patch would score as ``val_pointing_game_chance``, and as ``val_attention_inside`` the share of the maps' mass on
    the objects, with that of uniform maps (``val_attention_inside_chance``), all in percent; they are added to
    ``metrics.json`` at the end.

    Args:
        every_n_epochs: epochs between two sets of figures during training.
        samples: how many queries to draw, evenly spaced over the first protocol; always the same ones.

    Raises:
        InputError: if ``every_n_epochs`` is less than 1, or ``samples`` negative or more than `MOST_FIGURES`.
    """

    def __init__(self, every_n_epochs: int = 1, samples: int = 6) -> None:
        self.every_n_epochs = whole(every_n_epochs, 1, "trainer.callbacks.AttentionFigures.every_n_epochs")
        self.samples = whole(samples, 0, "trainer.callbacks.AttentionFigures.samples", MOST_FIGURES)
        self._games: list[list[PhraseMetric]] = []
        self._latest: dict[str, dict[str, float]] = {}
        self._has_maps = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start without figures of an earlier run."""
        self._games, self._latest, self._has_maps = [], {}, True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the score."""
        self._score(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the score."""
        self._score(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if a set of figures is due."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            self._save("validate", trainer)
            self._draw(trainer, pl_module, "val", "validate")
        elif (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, "val", f"epoch_{trainer.current_epoch:03d}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._save("test", trainer)
        self._draw(trainer, pl_module, "test", "test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the score of the last validation."""
        self._save("fit_end", trainer)

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start new metrics for every protocol."""
        self._games = []
        if not trainer.sanity_checking:
            for protocol in trainer.datamodule.protocols(stage):
                size = (len(protocol.record_queries()), pl_module.backbone.grid)
                self._games.append([kind(*size).to(pl_module.device) for kind in (PointingGame, AttentionInside)])

    def add(
        self,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        protocol_index: int,
    ) -> None:
        """Score the phrases of a batch."""
        if self._games and isinstance(batch, QueryBatch) and self._maps_in(outputs):
            maps = phrase_attention(pl_module.fusion, outputs)  # (P, N)
            for game in self._games[protocol_index]:
                game.update(batch.index, batch.phrases.owner, maps, batch.phrases.boxes)

    def _score(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute and log the score of every protocol; all ranks take part."""
        if trainer.sanity_checking:
            return
        for protocol, games in zip(trainer.datamodule.protocols(stage), self._games, strict=True):
            figures = {name: value for game in games if self._has_maps for name, value in game.compute().items()}
            # Equal on all ranks already; saying so keeps Lightning from warning about it.
            pl_module.log_dict({f"{protocol.split}_{name}": value for name, value in figures.items()}, sync_dist=True)
            if figures:
                self._latest[protocol.split] = {name: round(value.item(), 4) for name, value in figures.items()}
        self._games = []

    def _save(self, phase: str, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for split, figures in self._latest.items():
                add_results(Path(trainer.default_root_dir), phase, split, figures)

    @torch.no_grad()
    def _draw(self, trainer: Trainer, pl_module: LightningModule, stage: str, name: str) -> None:
        """Write the figures of the sample, on rank 0; Lightning has put the module into eval mode."""
        if not (trainer.is_global_zero and self.samples and self._has_maps):
            return
        from callbacks.figures import PhraseFigure, displayable, draw_query, same_size  # takes a second

        data, protocol = trainer.datamodule, trainer.datamodule.protocols(stage)[0]
        count = min(self.samples, len(protocol.query_ids))
        indices = torch.linspace(0, len(protocol.query_ids) - 1, count).round().long().tolist()
        batch = trainer.precision_plugin.convert_input(data.query_batch(stage, 0, indices))
        batch = trainer.strategy.batch_to_device(batch, pl_module.device)
        with trainer.precision_plugin.forward_context():
            outputs = pl_module.encode_query(batch)
        if not self._maps_in(outputs):
            return
        maps = (
            phrase_attention(pl_module.fusion, outputs).unflatten(1, pl_module.backbone.grid).cpu()
        )  # (P, rows, cols)
        pictures = displayable(batch.reference, getattr(data, "preprocess", None) or pl_module.preprocess)
        folder = Path(trainer.default_root_dir) / "attention" / name
        folder.mkdir(parents=True, exist_ok=True)
        files, captions = [], []
        for row, index in enumerate(indices):
            mine = (batch.phrases.owner == row).nonzero().flatten().tolist()
            spans, boxes = batch.phrases.spans.tolist(), batch.phrases.boxes.cpu()
            phrases = [PhraseFigure(*spans[phrase], maps[phrase], boxes[phrase]) for phrase in mine]
            caption = pl_module.backbone.tokenizer.clean(batch.captions[row])
            query = protocol.query_ids[index]
            title = f"{protocol.benchmark} {protocol.split}, query {query}, {name.replace('_', ' ')}"
            figure = draw_query(pictures[row], data.target_image(stage, 0, index), caption, phrases, title)
            files.append(folder / f"query_{query}.png")
            captions.append(caption)
            figure.savefig(files[-1])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"{protocol.split}_attention", same_size(files), caption=captions)

    def _maps_in(self, outputs: QueryFeatures) -> bool:
        if not outputs.fused.attention and self._has_maps:
            self._has_maps = False
            rank_zero_info("no attention figures: the fusion has no attention maps")
        return self._has_maps
