"""What is retrieved: pictures of a fixed sample of queries, with the first images of the composed query and the sum."""

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.evaluation import EvaluationCallback
from contextcir.checks import whole
from contextcir.evaluation.composition import COMPOSED
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.scoring import Scored

MOST_QUERIES, MOST_IMAGES = 100, 20  # of a figure that can be looked at
SUM = "sum"
QUALITY = 88  # of the JPEG; a PNG is four times as large, and there may be one each epoch
NAMES = {COMPOSED: "composed", SUM: "sum"}


class Ranking(NamedTuple):
    """What a row found for a query: ``images`` (gallery positions) with ``scores``, and the target's ``rank``, or 0."""

    images: list[int]
    scores: list[float]
    rank: int


class RetrievalFigures(EvaluationCallback):
    """Draw what a fixed sample of queries retrieves: the first images of the composed query and, below, of the sum.

    The sample is chosen by rule, and never by success: every n-th query of a split, from the first on. Right answers
    are framed; each row has the target's rank, each image its cosine, and below the figure stand the hits at 1 and 5 of
    both rows, in the sample and over all queries. Figures go to ``retrieval/epoch_NNN/SPLIT.jpg``
    (``retrieval/validate``, ``retrieval/test`` outside of training) in the run's folder, and to W&B where that is a
    logger. The sum is the row of `RecallTable`; without that callback, the composed query stands alone.

    Args:
        every_n_epochs: epochs between two figures during training.
        samples: how many queries to draw; 0 draws nothing.
        every_n_queries: the n of the rule; null spreads the samples over the whole split.
        images: how many of the first images to show.

    Raises:
        InputError: if ``every_n_epochs``, ``every_n_queries`` or ``images`` is less than 1, ``samples`` is negative, or
            there would be more than `MOST_QUERIES` queries or `MOST_IMAGES` images.
    """

    def __init__(
        self, every_n_epochs: int = 1, samples: int = 6, every_n_queries: int | None = None, images: int = 5
    ) -> None:
        setting = "trainer.callbacks.RetrievalFigures"
        self.every_n_epochs = whole(every_n_epochs, 1, f"{setting}.every_n_epochs")
        self.samples = whole(samples, 0, f"{setting}.samples", MOST_QUERIES)
        self.every_n_queries = every_n_queries
        if every_n_queries is not None:
            whole(every_n_queries, 1, f"{setting}.every_n_queries")
        self.images = whole(images, 1, f"{setting}.images", MOST_IMAGES)
        self._latest = {}  # no figures in numbers
        self._found: list[tuple[int, Protocol, dict[str, Scored], dict[str, dict[int, int]]]] = []

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the nearest images, if this evaluation is drawn."""
        self._found = []
        if self._due(trainer):
            for metric in pl_module.metrics:
                metric.keep_nearest(self.images)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the sample needs; all ranks take part, since the metrics may still have to be computed."""
        if not self._due(trainer):
            return
        for position, metric in enumerate(pl_module.metrics):
            metric.compute()
            scored = {row: found for row in NAMES if (found := metric.scored(row)) is not None}
            if COMPOSED in scored:
                lines = {
                    row: {place: n for n, place in enumerate(index.tolist())} for row, (index, _) in scored.items()
                }
                of = {row: found for row, (_, found) in scored.items()}
                self._found.append((position, metric.protocol, of, lines))

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if this evaluation is drawn."""
        fitting = trainer.state.fn == "fit"
        self._draw(trainer, pl_module, "val", f"epoch_{trainer.current_epoch:03d}" if fitting else "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module, "test", "test")

    def _due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or not self.samples:
            return False
        return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _draw(self, trainer: Trainer, pl_module: LightningModule, stage: str, name: str) -> None:
        """Write a figure for each protocol, on rank 0."""
        found, self._found = self._found, []
        if not (found and trainer.is_global_zero):
            return
        data = trainer.datamodule
        if not (hasattr(data, "gallery_image") and hasattr(data, "query_records")):
            rank_zero_info(f"no retrieval figures: {type(data).__name__} has no gallery_image and query_records")
            return
        from callbacks.figures import same_size  # takes a second
        from callbacks.retrieval_sheet import QueryPanel, Shown, draw_sheet

        folder = Path(trainer.default_root_dir) / "retrieval" / name
        folder.mkdir(parents=True, exist_ok=True)
        for position, protocol, scored, lines in found:
            records, clean = data.query_records(stage, position), pl_module.backbone.tokenizer.clean
            panels = []
            for place in sample(len(protocol.query_ids), self.samples, self.every_n_queries):
                rankings = {row: ranking(of, protocol, lines[row].get(place)) for row, of in scored.items()}
                rows = {
                    NAMES[row]: Shown(
                        pictures=[data.gallery_image(stage, position, image) for image in found.images[: self.images]],
                        scores=found.scores[: self.images],
                        right=[image in protocol.targets[place] for image in found.images[: self.images]],
                        rank=found.rank,
                    )
                    for row, found in rankings.items()
                    if found is not None
                }
                if rows:
                    record = records[place]
                    panels.append(
                        QueryPanel(
                            name=f"query {protocol.query_ids[place]}",
                            caption=clean(record.caption),
                            phrases=[(phrase.start, phrase.end) for phrase in record.phrases],
                            reference=data.reference_image(stage, position, place),
                            target=data.target_image(stage, position, place),
                            rows=rows,
                        )
                    )
            title = f"{protocol.benchmark} {protocol.split}, {name.replace('_', ' ')}"
            step = step_of(len(protocol.query_ids), self.samples, self.every_n_queries)
            footer = explain(protocol, step, scored, panels)
            path = folder / f"{protocol.split}.jpg"
            draw_sheet(title, panels, footer).savefig(path, pil_kwargs={"quality": QUALITY})
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"{protocol.split}_retrieval", same_size([path]), caption=[title])


def step_of(queries: int, samples: int, every: int | None) -> int:
    """Return the n of "every n-th query"."""
    return max(1, queries // samples) if every is None else every


def sample(queries: int, samples: int, every: int | None) -> list[int]:
    """Return the positions of every n-th query, from the first on, ``samples`` at most."""
    return list(range(0, queries, step_of(queries, samples, every)))[:samples]


def ranking(scored: Scored, protocol: Protocol, line: int | None) -> Ranking | None:
    """Return what was found for the query in a line of the scores; None if it was not seen."""
    if line is None or scored.nearest is None:
        return None
    images = [image for image in scored.nearest.images[line].tolist() if image >= 0]
    rank = ranks_of(scored, protocol)[line]
    scores = scored.nearest.scores[line, : len(images)].tolist()
    return Ranking(images, scores, int(rank) if rank.isfinite() else 0)


def ranks_of(scored: Scored, protocol: Protocol) -> Any:
    """Return the ranks (N,) that the protocol counts: in the queries' own subsets where it has no others."""
    return scored.subset_rank if protocol.only_subsets else scored.rank


def explain(protocol: Protocol, step: int, scored: dict[str, Scored], panels: list[Any]) -> str:
    """Return what stands below the figure: the rule of the sample, and the hits in it and over all queries."""
    count = len(protocol.query_ids)
    which = "every query" if step == 1 else f"every {step}{ordinal(step)} query"
    among = "the query's own set" if protocol.only_subsets else f"{len(protocol.gallery):,} images"
    first = "the target that the query was written for" if protocol.recall_of_first else "the target"
    lines = [
        f"Chosen by rule, not by success: {which} of {count:,}, from the first on. Rank: place of {first} among "
        f"{among}. ✓: a right answer. Below each image: its cosine."
    ]
    for row, of in scored.items():
        ranks = ranks_of(of, protocol)
        mine = [panel.rows[NAMES[row]].rank for panel in panels if NAMES[row] in panel.rows]
        hits = [f"{sum(0 < rank <= k for rank in mine)} of {len(mine)} at {k}" for k in (1, 5)]
        everywhere = [f"{100 * (ranks <= k).float().mean().item():.1f} % at {k}" for k in (1, 5)]
        lines.append(f"{NAMES[row]}: hits {', '.join(hits)}; over all queries {', '.join(everywhere)}")
    return "\n".join(lines)


def ordinal(number: int) -> str:
    """Return the ending of an ordinal number."""
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
