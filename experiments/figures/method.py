"""Draw the method from the shapes of a config's model: docs/method.svg.

python -m experiments.figures.method --experiment cirr_b32 --out docs/method.svg

The model is built with random weights, and composes one query of which only the shapes are computed: nothing is
downloaded or trained.
"""

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace

from contextcir.batch import QueryBatch, phrases_of
from contextcir.errors import InputError
from contextcir.files import write_text, writing
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.module import ContextCIR
from experiments.benchmarks.flops import ShapesOnly
from experiments.command import command
from experiments.figures.svg import LINE, Drawing
from experiments.outputs import output_file
from experiments.run import settings_parser

CAPTION = ("make the dog smaller", "and add a red ball")  # as it is drawn, in two lines
PHRASE = "a red ball"
WIDTH = 440
MOST_CELLS = 64  # tokens that are drawn one by one
# Of the sketched maps, in shares of the image: where they are highest, and how wide they are.
IN_CAPTION, ALONE = (0.36, 0.58, 0.30), (0.70, 0.72, 0.17)


class Shapes(NamedTuple):
    """What is drawn of a model: sizes by name, as the model itself has them."""

    side: int  # of an image, in pixels
    image_blocks: int
    image_heads: int
    vision: tuple[int, int]  # tokens of an image, and their width
    rows: int  # of patches, as many as columns
    text_blocks: int
    text_heads: int
    text: tuple[int, int]  # tokens of the caption, with start and end of text, and their width
    embed: int
    layers: int  # of the fusion
    heads: int
    hidden: int  # width inside the feed-forward layers
    temperature: float
    weight: float  # lambda


def build(config: str) -> ContextCIR:
    """Return the model of a config, with random weights that take no memory yet.

    Raises:
        InputError: if its fusion or its concept loss is another one than the published.
    """
    given = settings_parser().parse_args(["fit", f"--config={config}"]).fit.model
    given.backbone.init_args.pretrained = None if _brings_weights(given) else "random"
    parser = ArgumentParser()
    parser.add_class_arguments(ContextCIR, "model")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*from a non-meta parameter", UserWarning)
        model = parser.instantiate(Namespace(model=given)).model
    if type(model.fusion) is not CrossAttentionFusion or type(model.concept) is not TextConceptConsistency:
        found = f"{type(model.fusion).__name__} with {type(model.concept).__name__}"
        problem = f"the figure is of CrossAttentionFusion with TextConceptConsistency, {config} has {found}"
        raise InputError(problem, setting="experiment")
    return model


def _brings_weights(model: Namespace) -> bool:
    return model.backbone.init_args.pretrained is None


def shapes_of(model: ContextCIR) -> Shapes:
    """Compose one query by a model on the meta device, and return its shapes."""
    model.to_empty(device="cpu")
    caption, backbone = " ".join(CAPTION), model.backbone
    start = caption.index(PHRASE)
    image = torch.zeros(1, 3, backbone.image_size, backbone.image_size)
    batch = QueryBatch(torch.zeros(1, dtype=torch.long), image, [caption], phrases_of([[(start, start + len(PHRASE))]]))
    with ShapesOnly(), torch.no_grad():
        features = model.encode_query(batch)
        maps = features.fused.attention
    image_tower, text_tower = backbone.clip.visual.transformer.resblocks, backbone._text.transformer.resblocks
    first: Any = model.fusion.blocks[0]
    return Shapes(
        side=backbone.image_size,
        image_blocks=len(image_tower),
        image_heads=image_tower[0].attn.num_heads,
        vision=tuple(features.image.tokens.shape[1:]),
        rows=backbone.grid[0],
        text_blocks=len(text_tower),
        text_heads=text_tower[0].attn.num_heads,
        text=tuple(features.text.tokens.shape[1:]),
        embed=features.fused.embedding.shape[1],
        layers=len(maps),
        heads=maps[0].shape[1],
        hidden=first.feed_forward[0].out_features,
        temperature=float(model.contrastive.temperature),
        weight=model.concept.weight,
    )


def draw(shapes: Shapes) -> str:
    """Return the picture as SVG: 440 units wide, so that its text can be read on a phone."""
    drawing = Drawing(WIDTH, "ConText-CIR: from a reference image and a text to a composed query, and its two losses")
    draw_query(drawing, shapes)
    return drawing.svg(draw_consistency(drawing, shapes, 690))


def draw_query(drawing: Drawing, shapes: Shapes) -> None:
    """Draw the towers, the fusion and the contrastive loss."""
    side, (vision, width), (words, text_width) = f"{shapes.side} × {shapes.side} pixels", shapes.vision, shapes.text
    drawing.text(155, 22, "a query", "quiet")
    drawing.text(365, 22, "a gallery image", "quiet")
    drawing.box(10, 32, 130, 62, "image", ["reference image", side])
    drawing.box(150, 32, 150, 62, "text", ["text", f"“{CAPTION[0]}", f"{CAPTION[1]}”"])
    drawing.box(310, 32, 120, 62, "image", ["target image", side])
    heads = f"{shapes.image_blocks} blocks, {shapes.image_heads} heads"
    drawing.box(10, 116, 130, 46, "image", ["image tower", heads])
    drawing.box(150, 116, 150, 46, "text", ["text tower", f"{shapes.text_blocks} blocks, {shapes.text_heads} heads"])
    drawing.box(310, 116, 120, 46, "image", ["image tower", "the same weights"])
    for x in (75, 225, 370):
        drawing.arrow((x, 94), (x, 115))
    for x, start, span, count, kind in ((75, 10, 130, vision, "image"), (225, 150, 150, words, "text")):
        drawing.arrow((x, 162), (x, 183))
        drawing.cells(start, 186, span, 12, count if count <= MOST_CELLS else 1, kind)
    drawing.text(75, 214, f"{vision} tokens × {width:,}")
    drawing.text(225, 214, f"{words} tokens × {text_width:,}")
    drawing.text(82, 241, "queries", "quiet", "start")
    drawing.text(232, 241, "keys, values", "quiet", "start")

    drawing.box(10, 248, 290, 144, "fusion")
    attention = [f"cross-attention, {shapes.heads} heads", "vision tokens attend to text tokens"]
    drawing.box(20, 258, 270, 46, "inner", attention)
    for x, start, end in ((75, 220, 257), (225, 220, 257), (155, 304, 321)):
        drawing.arrow((x, start), (x, end))
    drawing.box(20, 322, 270, 46, "inner", ["feed-forward", f"{width:,} → {shapes.hidden:,} → {width:,}"])
    drawing.text(155, 384, f"fusion: {shapes.layers} such blocks, one after the other", "quiet")
    drawing.box(10, 414, 290, 46, "fusion", ["attention pooling", f"one learned query: {vision} tokens → 1"])
    drawing.box(10, 482, 290, 46, "fusion", ["projection", f"{width:,} → {shapes.embed:,}"])
    drawing.box(10, 550, 290, 38, "fusion", [f"composed query: {shapes.embed:,}"])
    drawing.box(310, 550, 120, 38, "image", [f"target: {shapes.embed:,}"])
    for y in (392, 460, 528, 588):
        drawing.arrow((155, y), (155, y + 21))
    drawing.arrow((370, 162), (370, 549))
    drawing.arrow((370, 588), (370, 609))
    loss = f"cosine at temperature {shapes.temperature:g}, against all other"
    drawing.box(10, 610, 420, 62, "loss", ["InfoNCE", loss, "targets and all references of the batch"])


def draw_consistency(drawing: Drawing, shapes: Shapes, top: int) -> int:
    """Draw the Text Concept-Consistency loss below ``top``; return the height of the whole picture."""
    drawing.line((10, top), (430, top))
    drawing.text(220, top + 25, "the second loss: Text Concept-Consistency", "name")
    side, y = 98, top + 66
    averaged = f"of {shapes.layers} blocks and {shapes.heads} heads"
    halves = ((110, IN_CAPTION, "in the caption", averaged), (330, ALONE, "alone", "the same, without gradient"))
    for centre, place, where, note in halves:
        drawing.text(centre, top + 54, f"“{PHRASE}” {where}")
        drawing.patches(centre - side / 2, y, side, sketch(shapes.rows, *place), "text")
        drawing.text(centre, y + side + 18, note, "quiet")
        drawing.arrow((centre, y + side + 26), (centre, y + side + 47))
    for number, line in enumerate(("attention", f"of {shapes.rows} × {shapes.rows}", "patches")):
        drawing.text(220, y + side / 2 - 12 + LINE * number, line)
    bottom = y + side + 48
    loss = ["mean difference of the two", f"times λ = {shapes.weight:g}, added to InfoNCE"]
    drawing.box(10, bottom, 420, 46, "loss", loss)
    return bottom + 56


def sketch(rows: int, x: float, y: float, width: float) -> list[list[float]]:
    """Return a made-up map (rows, rows) in 0..1, highest around a place."""

    def share(row: int, column: int) -> float:
        off = ((column + 0.5) / rows - x, (row + 0.5) / rows - y)
        return 0.06 + 0.88 * math.exp(-(off[0] ** 2 + off[1] ** 2) / (2 * width**2))

    return [[share(row, column) for column in range(rows)] for row in range(rows)]


def method(experiment: str = "cirr_b32", out: Path = Path("method.svg")) -> None:
    """Draw a config's model.

    Args:
        experiment: Name or path of a config, whose fusion and concept loss have to be the published ones.
        out: The file to write.
    """
    output_file(out, "out")
    text = draw(shapes_of(build(experiment)))
    with writing(out, "out"):
        write_text(out, text)
    print(out)


if __name__ == "__main__":
    command(method)
