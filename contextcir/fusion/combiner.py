"""The Combiner of CLIP4Cir: an MLP over both CLIP embeddings, the field's usual trained baseline."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.checks import fraction, whole
from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.baselines import Baseline

MOST_WIDTH = 65_536  # many times that of the published one, 5,120


class Combiner(Baseline):
    """q = MLP(i, t) + sigma t + (1 - sigma) i, where a second MLP of both gives sigma in (0, 1).

    Baldrati et al., Conditioned and Composed Image Retrieval Combining and Partially Fine-Tuning CLIP-Based Features
    (CVPRW 2022), figure 4; github.com/ABaldrati/CLIP4Cir, src/combiner.py. Both embeddings are L2-normalised first,
    unlike in the published code, which combines them as CLIP gives them: that is `RawCombiner`.

    The published loss is the cross-entropy of queries over the targets of the batch alone, at a temperature of 0.01
    (``logit_scale = 100``). Here it is `model.contrastive`, the same for all fusions.

    Args:
        width: of the projections of each embedding; the layer over both is twice as wide. Published: four times the
            embedding, 2560 for RN50x4.
        dropout: 0.5 as published, after all four hidden layers.

    Raises:
        InputError: if the width is not a whole number from 1 on, or all would drop out.
    """

    reads_text_embedding = True

    def __init__(self, widths: Widths, width: int = 640, dropout: float = 0.5) -> None:
        super().__init__(widths)
        whole(width, 1, "model.fusion.width", MOST_WIDTH)
        fraction(dropout, "model.fusion.dropout")

        def layer(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout))

        self.image, self.text = layer(widths.embed, width), layer(widths.embed, width)
        self.combined = nn.Sequential(layer(2 * width, 2 * width), nn.Linear(2 * width, widths.embed))
        self.share = nn.Sequential(layer(2 * width, 2 * width), nn.Linear(2 * width, 1), nn.Sigmoid())

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the combination as ``embedding`` (B, E)."""
        i, t = self.sides(image.embedding, text.embedding)
        both = torch.cat([self.image(i), self.text(t)], dim=-1)  # (B, 2 width)
        share = self.share(both)  # (B, 1)
        return Fused(self.combined(both) + share * t + (1 - share) * i, ())

    def sides(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, E) of image and text as they are combined: of length 1."""
        return functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)


class RawCombiner(Combiner):
    """The `Combiner` of the published code, which combines the embeddings as CLIP gives them, not normalised."""

    def sides(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, E) of image and text as they are."""
        return image, text
