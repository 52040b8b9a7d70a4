"""A training step does not wait for the GPU: no number is read, no result is of a size that numbers decide."""

from contextlib import suppress

import pytest
import torch
from torch import nn

import contextcir.fusion
import contextcir.losses
from callbacks.finite import StopWhenNotFinite
from contextcir.batch import HardNegatives, TripletBatch
from contextcir.fusion import SEARLE, ConceptAttentionFusion, CrossAttentionFusion, DistilledSum, Fusion
from contextcir.losses import ClauseDistillation, ConceptLoss, InfoNCE, PseudoWordDistillation, SelfMaskingProjection
from contextcir.losses.inversion import InversionLoss
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR, names_on_host
from tests.helpers import tiny
from tests.helpers.classes import concrete_classes
from tests.helpers.far_device import FAR, as_far, far, move_there, waits
from tests.helpers.gradient_cases import new_batch

CONCEPT = concrete_classes(contextcir.losses, ConceptLoss)
CONTRASTIVE = concrete_classes(contextcir.losses, InfoNCE)
FUSIONS = [kind for kind in concrete_classes(contextcir.fusion, Fusion) if not kind.trained_by]
ROWS = 6


def new_model(concept: ConceptLoss | None = None, **parts: object) -> ContextCIR:
    """A model with a fusion that its concept loss can train."""
    fusion = DistilledSum if isinstance(concept, ClauseDistillation) else CrossAttentionFusion
    fusion = SEARLE if isinstance(concept, InversionLoss) else fusion
    torch.manual_seed(0)
    return ContextCIR(tiny.backbone(), **{"fusion": fusion, "concept": concept, **parts})


def batch_there(negatives: bool = False) -> TripletBatch:
    """A batch as the Trainer hands it to a step: images on the device, all that names and places them on the host."""
    batch = new_batch(ROWS, torch.float32)
    if negatives:
        batch = batch._replace(negatives=HardNegatives(batch.target[:3] + 1, torch.arange(3) + 100))
    return names_on_host(as_far()(batch), batch)


def found_in_a_step(model: ContextCIR, batch: TripletBatch, passes: int = 1) -> list[str]:
    """What the losses and their gradients wait for, in the last of so many passes."""
    move_there(model.train())
    with waits() as found:
        for _ in range(passes):
            found.clear()
            loss = model.losses(batch)["loss"]
            if loss.requires_grad:
                loss.backward()
    assert loss.device == FAR
    return found


@pytest.mark.parametrize("kind", CONCEPT)
def test_no_step_with_a_concept_loss_waits(kind: type[ConceptLoss]) -> None:
    fast = {PseudoWordDistillation: {"steps": 2}, SelfMaskingProjection: {"noise": 0.5}}
    passes = 2 if kind is PseudoWordDistillation else 1  # it waits where an image comes for the first time
    assert found_in_a_step(new_model(kind(**fast.get(kind, {}))), batch_there(), passes) == []


@pytest.mark.parametrize("rows", [None, 2], ids=["all rows", "rows in blocks"])
@pytest.mark.parametrize("kind", CONTRASTIVE)
def test_no_step_with_a_contrastive_loss_waits(kind: type[InfoNCE], rows: int | None) -> None:
    assert found_in_a_step(new_model(contrastive=kind(rows=rows)), batch_there(negatives=True)) == []


@pytest.mark.parametrize("kind", FUSIONS)
def test_no_step_with_a_fusion_waits(kind: type[Fusion]) -> None:
    assert found_in_a_step(new_model(fusion=kind), batch_there()) == []


def test_no_step_with_concepts_as_keys_waits() -> None:
    loss = contextcir.losses.TextConceptConsistency()
    assert found_in_a_step(new_model(loss, fusion=ConceptAttentionFusion), batch_there()) == []


def test_neither_clipping_nor_the_update_waits() -> None:
    model, batch = move_there(new_model()), batch_there()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with waits() as found:
        for _ in range(2):  # in the first step, the optimizer makes its state
            found.clear()
            model.losses(batch)["loss"].backward()
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert found == []


def test_the_losses_of_several_steps_are_looked_at_together() -> None:
    """The one time that a callback waits, every ten batches."""

    class Decides:
        @staticmethod
        def reduce_boolean_decision(decision: bool, all: bool) -> bool:
            return decision

    class Trained:
        current_epoch, num_training_batches, strategy = 0, 100, Decides()

    callback, batch = StopWhenNotFinite(), batch_there()
    losses = [far(torch.tensor(1.0 + number)) for number in range(9)]
    with waits() as found:
        for number, loss in enumerate(losses):
            callback.on_train_batch_end(Trained(), None, loss, batch, number)
    assert found == []


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x[torch.zeros(2, dtype=torch.long)], "tensors on both sides"),
        (lambda x: x[[0, 1]], "tensors on both sides"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: x.unique(), "unique"),
        (lambda x: x.cpu(), "copy to cpu"),
        (lambda x: torch.arange(3).to(x.device), "copy to meta"),
        (lambda x: x + torch.tensor(1.0, device=x.device), "made of Python's numbers"),
        (lambda x: x + torch.ones(3), "tensors on both sides"),
    ],
)
def test_the_record_has_what_would_wait(wrong: object, name: str) -> None:
    with waits() as found, suppress(RuntimeError):  # what is no tensor of the stand-in has no numbers
        wrong(far(torch.ones(3)))
    assert any(name in entry for entry in found), found


def test_the_stand_in_computes_the_same() -> None:
    loss = contextcir.losses.TextConceptConsistency
    near, away = new_model(loss()), move_there(new_model(loss()))
    near.losses(new_batch(ROWS, torch.float32))["loss"].backward()
    with waits():
        away.losses(batch_there())["loss"].backward()
    for name, parameter in near.named_parameters():
        if parameter.grad is not None:
            found = away.get_parameter(name).grad.near
            torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def test_gradient_caching_waits_for_nothing_either() -> None:
    model = new_model(contextcir.losses.TextConceptConsistency(), encoding=GradientCache(3))
    assert found_in_a_step(model, new_batch(ROWS, torch.float32)) == []  # its images wait on the host
