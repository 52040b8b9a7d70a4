"""The page on the method: its figure is that of the present code, and it names every fusion and concept loss."""

import re

import contextcir.fusion
import contextcir.losses
from contextcir.losses import ConceptLoss
from experiments.figures.method import build, draw, shapes_of
from tests.helpers.paths import CONFIGS, PROJECT

PAGE = (PROJECT / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)`[^|]*\|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)


def test_the_figure_is_what_the_command_draws() -> None:
    shapes = shapes_of(build("cirr_b32"))
    assert shapes.vision == (50, 768) and shapes.rows == 7 and shapes.text[1] == shapes.embed == 512
    committed = (PROJECT / "docs" / "method.svg").read_text(encoding="utf-8")
    assert draw(shapes) == committed, "python -m experiments.figures.method --out docs/method.svg"


def test_every_fusion_and_every_loss_on_phrases_or_clauses_is_named() -> None:
    fusions = set(contextcir.fusion.__all__) - {"Fusion", "ImageOnly", "TextOnly"}
    losses = {name for name in contextcir.losses.__all__ if isinstance(getattr(contextcir.losses, name), type)}
    losses = {name for name in losses if issubclass(getattr(contextcir.losses, name), ConceptLoss)}
    of_composers = {"ImageReconstruction", "PseudoWordDistillation", "SelfMaskingProjection", "ClauseDistillation"}
    wanted = fusions | losses - of_composers - {"ConceptLoss", "MeanOverPhrases"}
    assert {name for name in wanted if f"`{name}`" not in PAGE} == set()


def test_the_overlays_of_the_variants_are_there() -> None:
    overlays = [name for _, cell in ROWS for name in re.findall(r"^`(\w+)`$", cell)]
    assert len(overlays) >= 10
    assert [name for name in overlays if not (CONFIGS / "overlays" / f"{name}.yaml").is_file()] == []
