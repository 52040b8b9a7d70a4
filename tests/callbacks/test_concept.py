"""The monitor of the concept loss in a real Trainer: its figures, and that training does not notice it."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.concept import ConceptMonitor, attention_figures, gradient_ratio, listening
from contextcir.batch import Phrases, QueryBatch, TripletBatch
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.grounded import GroundedConsistency
from contextcir.losses.maps import phrase_attention
from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from tests.helpers import tiny
from tests.helpers.distributed import run_ranks

CAPTIONS = ["the dog sees the dog and a red ball", "a red ball", "no phrases", "more sofas"]
SPANS = [[(0, 0, 7), (0, 13, 20), (0, 25, 35), (1, 0, 10)], [(3, 0, 10)], []]
NAMES = {
    "train_concept_gradient", "train_phrases_aligned", "train_map_entropy",
    "train_attention_start", "train_attention_end", "train_attention_phrases",
}  # fmt: skip


def batch(number: int) -> TripletBatch:
    """Batches that differ in their images, and in how many phrases they have."""
    images = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    where = torch.tensor(SPANS[number % 3], dtype=torch.long).reshape(-1, 3)
    phrases = Phrases(where[:, 0], where[:, 1:], torch.full((len(where), 4), float("nan")))
    ids = torch.arange(8) + 8 * number
    return TripletBatch(QueryBatch(torch.arange(4), images[0], CAPTIONS, phrases), images[1], ids[:4], ids[4:])


class Recording(ContextCIR):
    """Keeps what the monitor logged, by step."""

    def log_dict(self, dictionary: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        if any(name in dictionary for name in NAMES):
            self.recorded.append((self.trainer.global_step, {name: float(x) for name, x in dictionary.items()}))
        super().log_dict(dictionary, *args, **options)


def new_model(concept: ConceptLoss | None, layers: int = 2) -> Recording:
    torch.manual_seed(0)
    optimizer = AdamWWarmupCosine(lr=1e-3, backbone_lr=1e-3, warmup_steps=0)
    fusion = partial(CrossAttentionFusion, layers=layers, dropout=0.3)
    model = Recording(tiny.backbone(), fusion, concept=concept, optimizer=optimizer)
    model.recorded = []
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def train(model: ContextCIR, folder: Path, *callbacks: Callback, **options: object) -> Trainer:
    settings = {"accelerator": "cpu", "max_steps": 5, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(**settings, callbacks=list(callbacks), **options)
    torch.manual_seed(1)
    trainer.fit(model, DataLoader([batch(number) for number in range(6)], batch_size=None))
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("concept", [TextConceptConsistency(), GroundedConsistency()])
def test_training_is_the_same_to_the_bit(tmp_path: Path, concept: ConceptLoss, precision: str) -> None:
    plain, watched = new_model(concept), new_model(concept)
    train(plain, tmp_path, precision=precision)
    train(watched, tmp_path, ConceptMonitor(2), precision=precision)
    for one, other in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_measures_every_few_steps_and_once_a_step(tmp_path: Path, accumulated: int) -> None:
    model = new_model(TextConceptConsistency())
    train(model, tmp_path, ConceptMonitor(2), accumulate_grad_batches=accumulated)
    assert [step for step, _ in model.recorded] == [0, 2, 4]
    assert all(figures.keys() == NAMES for _, figures in model.recorded)


def naive_figures(model: ContextCIR, given: TripletBatch) -> dict[str, float]:
    features = model.encode_query(given.query)
    mean = torch.stack(features.fused.attention)[:, :, :, 1:].mean(dim=(0, 2, 3))  # (B, T)
    start, end, phrase, entropy = [], [], [], []
    for row, caption in enumerate(given.query.captions):
        tokens = model.backbone.tokenizer([caption])
        start.append(mean[row, 0].item())
        end.append(mean[row, tokens.ids.shape[1] - 1].item())
    where = model.backbone.tokenizer.span_tokens(
        given.query.captions, given.query.phrases.owner, given.query.phrases.spans
    )
    for owner, tokens, values in zip(
        given.query.phrases.owner.tolist(), where, phrase_attention(model.fusion, features), strict=True
    ):
        phrase.append(mean[owner][tokens].sum().item())
        places = (values / values.sum()).tolist()
        entropy.append(-sum(x * math.log(x) for x in places) / math.log(len(places)))
    figures = {"attention_start": start, "attention_end": end, "attention_phrases": phrase, "map_entropy": entropy}
    return {f"train_{name}": sum(values) / len(values) for name, values in figures.items()}


def test_the_figures_are_those_of_the_batch(tmp_path: Path) -> None:
    model = new_model(TextConceptConsistency(weight=0.3))
    model.fusion.eval()
    expected = naive_figures(model, batch(0))
    losses = model.losses(batch(0))
    norms = []
    for name in ("concept", "contrastive"):
        model.zero_grad()
        losses[name].backward(retain_graph=True)
        norms.append(
            torch.cat([x.grad.flatten() for x in model.fusion.parameters() if x.grad is not None]).norm().item()
        )
    expected |= {"train_concept_gradient": 0.3 * norms[0] / norms[1], "train_phrases_aligned": 1.0}
    model.zero_grad()

    class WithoutDropout(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.fusion.eval()

    train(model, tmp_path, WithoutDropout(), ConceptMonitor())
    assert model.recorded[0][1] == pytest.approx(expected, rel=1e-3)


def test_without_a_concept_loss_or_phrases_it_says_what_there_is(tmp_path: Path) -> None:
    model = new_model(None)
    train(model, tmp_path, ConceptMonitor(1))
    first, _, without = (figures for _, figures in model.recorded[:3])
    assert NAMES - first.keys() == {"train_concept_gradient"}
    assert without["train_phrases_aligned"] == 0.0 == without["train_map_entropy"]


def ranks_train(rank: int, folder: str) -> list[tuple[int, dict[str, float]]]:
    model = new_model(GroundedConsistency(), layers=1)
    sampler = [batch(number) for number in ((0, 2, 3) if rank == 0 else (1, 3, 5))]  # the last ones have no phrases
    found = []
    for given in sampler:
        with listening(model.fusion) as heard:
            losses = model.losses(given)
        figures = attention_figures(model.fusion, heard[0], given.reference_id)
        found.append({name: x.item() for name, x in (figures | {"ratio": gradient_ratio(model, losses)}).items()})
    return found


def test_two_ranks_agree_also_where_one_has_no_phrases(tmp_path: Path) -> None:
    first, second = run_ranks(ranks_train, 2, str(tmp_path))
    assert first == second and len(first) == 3
    assert all(math.isfinite(value) and value > 0 for figures in first for value in figures.values())


def test_batches_in_chunks_are_not_measured(tmp_path: Path) -> None:
    model = new_model(TextConceptConsistency())
    model.encoding = GradientCache(2)
    train(model, tmp_path, ConceptMonitor(1))
    assert not model.recorded


def test_an_interval_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a whole number from 1 on, got 0"):
        ConceptMonitor(0)
