"""What makes training faster changes nothing else: compiled towers, channels-last, a fused optimizer, bfloat16."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.compiled import CompileTowers
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine, AdamWWarmupRestarts
from data_modules.scenes.writer import Size, write_scenes
from experiments.run import ExperimentCLI, main
from tests.helpers import tiny
from tests.helpers.gradient_cases import CACHE, assert_same, new_model
from tests.helpers.paths import CONFIGS

SIZE = Size(train_references=3, references=2, shared_references=2)


def tower_gradients(model: ContextCIR) -> dict[str, torch.Tensor]:
    """What both towers say of an image and a text, and its gradients."""
    backbone, images = model.backbone, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image, text = backbone.encode_image(images), backbone.encode_text(backbone.tokenizer(["a dog", "a cat"]))
    outputs = {"image": image.embedding, "tokens": image.tokens, "text": text.tokens}
    sum(output.square().sum() for output in outputs.values()).backward()
    found = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return found | {f"({name})": output.detach() for name, output in outputs.items()}


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")],
        ),
    ],
)
def test_compiled_towers_compute_the_same_under_the_same_names(backend: str) -> None:
    torch.compiler.reset()
    plain, fast = (new_model("no concept loss", CACHE, torch.float32) for _ in range(2))
    CompileTowers(backend).setup(Trainer(logger=False, accelerator="cpu"), fast, "fit")
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    fast.load_state_dict(plain.state_dict())
    assert all(block._compiled_call_impl is not None for block in fast.backbone.blocks)
    assert len(fast.backbone.blocks) == 4
    assert_same(tower_gradients(fast), tower_gradients(plain), 1e-5)


def test_towers_are_compiled_for_training_only_and_by_a_backend_that_exists() -> None:
    model = new_model("Text-CC", CACHE, torch.float32)
    CompileTowers("eager").setup(Trainer(logger=False, accelerator="cpu"), model, "validate")
    assert all(block._compiled_call_impl is None for block in model.backbone.blocks)
    with pytest.raises(ValueError, match=r"expected one of .*inductor.*, got 'fast' \(.*CompileTowers\.backend\)$"):
        CompileTowers("fast")


def test_channels_last_images_are_encoded_alike(clip_folder: Path) -> None:
    name, images = f"local-dir:{clip_folder}", torch.randn(3, 3, 32, 32)
    plain, last = OpenCLIPBackbone(name), OpenCLIPBackbone(name, channels_last=True)
    weight = last.clip.visual.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert last.clip.visual.conv1(images).is_contiguous(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for found, expected in zip(last.encode_image(images), plain.encode_image(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamWWarmupCosine, AdamWWarmupRestarts])
def test_fused_steps_equal_plain_ones(kind: type[AdamWWarmupCosine]) -> None:
    weights = []
    for fused in (None, True):
        torch.manual_seed(0)
        first, second = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
        optimizer, schedule = kind(lr=1e-2, backbone_lr=1e-3, warmup_steps=3, fused=fused)(first, second, 10)
        assert optimizer.defaults["fused"] is fused
        for _ in range(8):
            optimizer.zero_grad()
            second(first(torch.randn(6, 5))).square().sum().backward()
            optimizer.step()
            schedule.step()
        weights.append([p.detach() for part in (first, second) for p in part.parameters()])
    for expected, found in zip(*weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


class ClippedModel(LightningModule):
    """One that Lightning clips the gradients of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return 1e6 * self.layer(batch).sum()

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        if self.layer.weight.grad is not None:
            assert sum(p.grad.square().sum() for p in self.parameters()).sqrt() <= 1.001

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return AdamWWarmupCosine(fused=True)(torch.nn.Identity(), self.layer, 4)[0]


def test_gradients_of_a_fused_optimizer_can_be_clipped_in_mixed_precision(tmp_path: Path) -> None:
    options = {"precision": "bf16-mixed", "gradient_clip_val": 1.0, "accelerator": "cpu", "default_root_dir": tmp_path}
    options |= {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "max_epochs": 1}
    trainer = Trainer(enable_model_summary=False, **options)
    trainer.fit(ClippedModel(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2))
    assert trainer.global_step == 4


def fit(flags: list[str], *overlays: str) -> ExperimentCLI:
    configs = [f"--config={CONFIGS / name}.yaml" for name in ("base", "scenes", *(f"overlays/{x}" for x in overlays))]
    return main(["fit", *configs, *flags, "--trainer.fast_dev_run=2"])


@pytest.mark.usefixtures("runs")
@pytest.mark.slow
def test_overlays_of_speed_reach_the_run_and_the_loss_is_close(small: list[str], tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 0, SIZE, workers=1)
    flags = [flag for flag in small if "precision" not in flag]
    flags += [f"--data.root={tmp_path / 'scenes'}", "--data.batch_size=8", "--model.backbone.trainable_text_blocks=1"]
    flags += [f"--data.size={json.dumps(vars(SIZE))}"]
    full = fit([*flags, "--trainer.precision=32-true"], "fast_gpu")
    assert full.trainer.precision == "32-true" and full.model.optimizer.fused
    low = fit(flags, "bf16", "fast_gpu", "gradient_cache")
    assert low.trainer.precision == "bf16-mixed" and low.model.contrastive.rows == 64
    for name in ("train_loss", "train_concept"):
        expected, found = (cli.trainer.callback_metrics[name] for cli in (full, low))
        assert torch.isfinite(found) and found.item() == pytest.approx(expected.item(), rel=0.05)


def test_the_small_model_has_blocks_in_both_towers() -> None:
    clip = tiny.clip(custom_text=True)
    blocks = OpenCLIPBackbone.wrap(clip, tiny.tokenizer(), "tiny").blocks
    assert blocks == [*clip.visual.transformer.resblocks, *clip.text.transformer.resblocks]
