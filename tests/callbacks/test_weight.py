"""The weight that val chooses: by hand, in the result file, and used by the test."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import GalleryBatch
from contextcir.errors import InputError
from contextcir.evaluation.protocol import Protocol
from data_modules.scenes.writer import Size, write_scenes
from experiments.run import ExperimentCLI, main
from tests.helpers.paths import CONFIGS

SIZE = Size(train_references=3, references=6, shared_references=2)
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


def evaluate(stage: str, overlay: str, scenes: Path, small: list[str], *more: str) -> ExperimentCLI:
    configs = [f"--config={CONFIGS / name}.yaml" for name in ("base", "scenes", f"overlays/{overlay}")]
    splits = ["--data.val_splits=[val]", "--data.test_splits=[test]", "--trainer.logger=false", "--data.features=null"]
    splits += ["--model.backbone.trainable_text_blocks=1"]  # of the two that the tiny model has
    splits += [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    return main([stage, *configs, *small, f"--data.root={scenes}", *splits, "--data.batch_size=2", *more])


def recall_at_1(protocol: Protocol, queries: Tensor, gallery: Tensor) -> float:
    """In percent, query by query; an equal score of another image counts against the target."""
    found = 0
    for query, targets in enumerate(protocol.targets):
        scores = (functional.normalize(queries[query], dim=0) @ functional.normalize(gallery, dim=1).T).tolist()
        best = max(scores[target] for target in targets)
        rivals = set(range(len(scores))) - set(targets)
        if protocol.exclude_reference:
            rivals -= {protocol.references[query]}
        found += all(scores[rival] < best for rival in rivals)
    return 100 * found / len(protocol.targets)


@pytest.mark.parametrize("overlay", ["weighted_sum", "slerp"])
def test_the_weight_of_the_highest_figure_on_val_is_taken_and_told(
    overlay: str, scenes: Path, small: list[str], runs: Path
) -> None:
    trained = "--model.backbone.model=scenes-vit"  # with random weights, all weights would find as little
    cli = evaluate("test", overlay, scenes, small, trained)
    model, data = cli.model, cli.datamodule
    images, texts, gallery = [], [], []
    for loader in data.val_dataloader():
        for batch in loader:
            with torch.no_grad():
                if isinstance(batch, GalleryBatch):
                    gallery.append((batch.index, model.backbone.encode_image(batch.image).embedding))
                else:
                    features = model.encode_query(batch)
                    images.append(features.image.embedding)
                    texts.append(features.text.embedding)
    order = torch.cat([index for index, _ in gallery]).argsort()
    candidates = torch.cat([embedding for _, embedding in gallery])[order]
    protocol = data.protocols("val")[0]
    figures = {
        step / 20: recall_at_1(protocol, model.fusion.mix(torch.cat(images), torch.cat(texts), step / 20), candidates)
        for step in range(21)
    }
    best = max(figures.values())
    assert best > figures[1.0] + 1
    entry = json.loads((runs / "scenes" / "id1" / "metrics.json").read_text())["test"]["test"]
    assert entry["weight"] == min(weight for weight, value in figures.items() if value == best)
    assert float(model.fusion.weight) == pytest.approx(entry["weight"])
    told = entry["weight_choice"]
    assert (told["chosen_on"], told["by"]) == ("val", "val_recall_at_1")
    assert told["figures"] == {f"{weight:.3f}": pytest.approx(value, abs=1e-3) for weight, value in figures.items()}
    assert entry["rows"]["composed"]["recall_at_1"] >= 0


def test_validate_and_predict_are_at_the_chosen_weight(scenes: Path, small: list[str], runs: Path) -> None:
    chosen = evaluate("validate", "weighted_sum", scenes, small, "--model.fusion.weight=1.0").model.fusion.weight
    assert evaluate("predict", "weighted_sum", scenes, small).model.fusion.weight == chosen
    entry = json.loads((runs / "scenes" / "id1" / "metrics.json").read_text())["validate"]["val"]
    assert entry["rows"]["composed"]["recall_at_1"] == pytest.approx(max(entry["weight_choice"]["figures"].values()))


def test_a_fusion_without_a_weight_is_refused(scenes: Path, small: list[str]) -> None:
    with pytest.raises(InputError, match="Sum has none"):
        evaluate("test", "weighted_sum", scenes, small, "--model.fusion=Sum")
