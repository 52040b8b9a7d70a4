"""The concept fusion in training: on two ranks, and through the command line from fit to predict."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contextcir.batch import QueryBatch, TripletBatch, phrases_of
from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.module import ContextCIR
from experiments.run import ExperimentCLI, main
from tests.helpers import tiny
from tests.helpers.distributed import run_ranks
from tests.helpers.make_data import edited, make_cirr
from tests.helpers.paths import CONFIGS

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", "bluer", "the dog, the dog on a sofa"]
SPANS = {
    "uneven": [[(5, 12), (28, 38)], [(8, 15)], [], [(0, 7)]],
    "second rank has none": [[(5, 12), (28, 38)], [(8, 15)], [], []],
    "nobody has any": [[], [], [], []],
}


class Losses(nn.Module):
    """The loss as a forward pass, which is what distributed training wraps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        model = ContextCIR(tiny.backbone(), fusion=ConceptAttentionFusion, concept=TextConceptConsistency(weight=1.0))
        with torch.no_grad():
            for parameter in model.fusion.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        self.model = model.double()

    def forward(self, batch: TripletBatch) -> Tensor:
        return self.model.losses(batch)["loss"]


def triplets(spans: list, rows: slice) -> TripletBatch:
    """Some rows of a batch of four."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    row = torch.arange(4)[rows]
    query = QueryBatch(row, images[:4][rows], CAPTIONS[rows], phrases_of(spans[rows]))
    return TripletBatch(query, images[4:][rows], row, row + 4)


def train_step(rank: int, spans: list) -> list:
    model = DistributedDataParallel(Losses())  # which refuses parameters without a gradient at the next step
    for _ in range(2):
        model.zero_grad()
        loss = model(triplets(spans, slice(2 * rank, 2 * rank + 2)))
        loss.backward()
    return [loss, gradients(model.module)]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", SPANS)
def test_two_ranks_equal_one_process(case: str) -> None:
    ranks = run_ranks(train_step, 2, SPANS[case])
    whole = Losses()
    loss = whole(triplets(SPANS[case], slice(0, 4)))
    loss.backward()
    torch.testing.assert_close((sum(rank[0] for rank in ranks) / 2).item(), loss.item(), rtol=1e-10, atol=0)
    expected = gradients(whole)
    assert set(expected) == {name for name, p in whole.named_parameters() if p.requires_grad}
    for _, found in ranks:
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10, msg=name)


class StopAfterOneEpoch(Callback):
    """Ends training early, as a time limit would."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


@pytest.fixture
def on_cirr(small: list[str], runs: Path, tmp_path: Path) -> list[str]:
    """Flags for a CIRR whose first query of every set names two phrases, and the others none."""
    root = make_cirr(tmp_path / "cirr")
    for file in (root / "captions").glob("*.json"):
        with edited(file) as records:
            for record in records[::3]:
                count = record["caption"].index(" bottles")
                record["phrases"] = [{"start": 5, "end": count + 8}, {"start": 5, "end": count}]
    configs = [f"--config={CONFIGS / name}.yaml" for name in ("base", "cirr_b32", "overlays/concept_attention")]
    epochs = ["--trainer.max_steps=-1", "--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"]
    return [*configs, *small, f"--data.root={root}", "--data.batch_size=2", *epochs]


def weights(cli: ExperimentCLI) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in cli.model.state_dict().items()}


@pytest.mark.slow
def test_it_trains_resumes_and_predicts_through_the_command_line(on_cirr: list[str], runs: Path) -> None:
    flags = ["fit", *on_cirr, "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]
    whole = main([*flags, "--name=whole"])
    assert isinstance(whole.model.fusion, ConceptAttentionFusion)
    main([*flags, "--trainer.callbacks+=tests.fusion.test_concept_fusion_runs.StopAfterOneEpoch"])
    resumed = main([*flags, "--ckpt_path=last"])
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0, msg=name)

    file = runs / resumed.config.fit.name / "id1" / "checkpoints" / "last.ckpt"
    saved, rebuilt = torch.load(file, weights_only=False)["state_dict"], ContextCIR.load_from_checkpoint(file)
    assert {"fusion.concept_type", "fusion.concept_projection.weight"} < set(saved)
    assert all(torch.equal(rebuilt.state_dict()[name], value) for name, value in saved.items())
    main(["predict", *on_cirr, "--name=predicted", f"--ckpt_path={file}"])
    submission = json.loads((runs / "predicted" / "id1" / "submission" / "cirr_test1_recall.json").read_text())
    assert len(submission) == 2 + 6  # queries, version and metric
