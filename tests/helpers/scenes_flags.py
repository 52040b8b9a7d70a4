"""Flags of an experiment on a few drawn scenes, for tests that go through the command line."""

from pathlib import Path

from data_modules.scenes.writer import Size, write_scenes
from tests.helpers.paths import CONFIGS

SIZE = Size(train_references=3, references=2, shared_references=2)


def draw(folder: Path) -> Path:
    """Draw so few that it takes a second."""
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


def on(folder: Path) -> list[str]:
    """Flags that make a run go over the drawn scenes, and train whatever it is that was made small."""
    size = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    whole = ["--model.backbone.trainable_image_blocks=null", "--model.backbone.trainable_text_blocks=null"]
    return [f"--data.root={folder}", *size, "--data.batch_size=8", *whole]


def configs(*names: str) -> list[str]:
    """Flags that name configs."""
    return [f"--config={CONFIGS / name}.yaml" for name in names]
