"""Fifty steps on stored features have the losses and the ranks of fifty steps on pixels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import StoredImages
from contextcir.fusion import CrossAttentionFusion, Fusion, Sum
from contextcir.losses import InfoNCE
from contextcir.training import AdamWWarmupCosine
from contextcir.training.module import ContextCIR
from data_modules import Scenes
from data_modules.loading.rows import ImageRows
from data_modules.scenes.writer import Size, write_scenes
from experiments.benchmarks.features import batches, with_rows

STEPS = 50


def two_layers(widths: object) -> Fusion:
    return CrossAttentionFusion(widths, layers=2)


def trained(name: str, fusion: Callable[..., Fusion], root: Path, features: Path | None) -> tuple[Tensor, Tensor]:
    """The loss of each step (50,), and the rank of the target of each query of val."""
    torch.manual_seed(0)
    backbone = OpenCLIPBackbone(name, trainable_image_blocks=0)
    model = ContextCIR(backbone, fusion, InfoNCE(), optimizer=AdamWWarmupCosine(1e-3, 1e-4, warmup_steps=10))
    data = Scenes(root, batch_size=8, num_workers=0, preprocess=backbone.preprocess)
    loader = data.train_dataloader()
    if features is not None:
        backbone.stored = StoredImages(features)
        loader = with_rows(loader, ImageRows(loader.dataset.queries.images, backbone.preprocess, backbone.stored))
    optimizer, schedule = model.optimizer(backbone, [model.fusion], STEPS)
    losses, source = [], batches(loader)
    for _ in range(STEPS):
        batch: TripletBatch = next(source)
        assert batch.target.is_floating_point() == (features is None)
        loss = model.losses(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    [images, queries] = [list(loader) for loader in data.val_dataloader()[:2]]
    gallery = torch.cat([model.embed_image(part.image) for part in images])
    query = torch.cat([model.embed_query(part.reference, part.captions) for part in queries])
    targets = torch.tensor([target[0] for target in data.protocols("val")[0].targets])
    scores = query @ gallery.T
    return torch.stack(losses), (scores > scores.gather(1, targets[:, None])).sum(1)


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("tiny", two_layers),
        pytest.param("tiny", Sum, marks=pytest.mark.slow),
        pytest.param("scenes-vit", two_layers, marks=pytest.mark.slow),
    ],
)
def test_losses_and_ranks_are_those_of_pixels(
    name: str, fusion: Callable[..., Fusion], clip_folder: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "scenes", 0, Size(4, 3, 2), workers=1)
    model = f"local-dir:{clip_folder}" if name == "tiny" else name
    expected, found = (trained(model, fusion, tmp_path / "scenes", place) for place in (None, tmp_path / "features"))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=0)
    assert expected[0][-1] < expected[0][0]
    assert torch.equal(found[1], expected[1]) and len(found[1]) > 5
