"""Textual inversion: the reference image becomes a word of the caption, and CLIP's text tower composes the query.

A network phi maps the embedding of the image to a pseudo-word, a vector in the space of the tower's token embeddings,
which stands in a template with the caption. Both towers stay as they are. The three published ways differ in template,
in phi, and in how phi is trained, without any triplet: `contextcir.losses.inversion` has these losses.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from contextcir.batch import Clauses
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import Fused, ImageFeatures, Prompt, PseudoWords, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.encoders.pseudo_words import prompt_of
from contextcir.fusion.baselines import Baseline
from contextcir.fusion.inversion_networks import GeluNetwork, ReluNetwork, fill

WIDENING = 4  # of SEARLE's and LinCIR's phi: its layers are so many times as wide as an embedding


class TextualInversion(Baseline):
    """q = T(template of phi(i) and the caption): T is the text tower, i the embedding of the image, not normalised.

    Neither the query nor i is normalised: published weights of phi expect CLIP's embeddings as they are.
    """

    phi: ReluNetwork | GeluNetwork
    read: Callable[..., TextFeatures]

    @abstractmethod
    def pieces(self, caption: str) -> tuple[str, str]:
        """Return the template with a caption, as the text before the pseudo-word and that after it."""

    def connect(self, backbone: OpenCLIPBackbone) -> None:
        """Take the text tower; it stays a part of the backbone, not of this module."""
        self.read = backbone.encode_text

    def encode_text(self, backbone: OpenCLIPBackbone, captions: Sequence[str], clauses: Clauses | None) -> TextFeatures:
        """Return the features of B captions, each as one text, and the same captions in the template."""
        features = super().encode_text(backbone, captions, clauses)
        prompt = prompt_of(backbone.tokenizer, [self.pieces(caption) for caption in captions])
        return features._replace(prompt=prompt)

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the query as ``embedding`` (B, E).

        Raises:
            ValueError: if the text has no prompt: it comes from another place than `encode_text`.
        """
        if text.prompt is None:
            raise ValueError(f"{type(self).__name__} needs captions in its template: encode them by its encode_text")
        return Fused(self.fill_gaps(text.prompt, self.phi(image.embedding)), ())

    def fill_gaps(self, prompt: Prompt, words: Tensor) -> Tensor:
        """Return the embeddings (B, E) of texts with pseudo-words (B, D) in their gaps, not normalised."""
        return self.read(prompt.tokens, PseudoWords(prompt.place, words)).embedding


class Pic2Word(TextualInversion):
    """q = T("a photo of * , CAPTION") with phi(i) in the place of the star.

    Saito et al., Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval (CVPR 2023);
    github.com/google-research/composed_image_retrieval: template in src/data.py (for CIRR, with a space before the
    comma), phi in model/model.py. Trained by `ImageReconstruction`. Published for ViT-L/14 of OpenAI: two layers of 512
    and a dropout of 0.1; its checkpoint is read as it is.

    Args:
        weights: file of phi; None for random ones.
        width: of phi's layers.
        layers: number of phi's layers.
        dropout: share of phi's activations that drop out in training.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if a number is outside of its range, or the file holds no such network.
    """

    def __init__(
        self,
        widths: Widths,
        weights: str | Path | None = None,
        width: int = 512,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(widths)
        self.phi = ReluNetwork(widths, width, layers, dropout)
        fill(self.phi, weights)

    def pieces(self, caption: str) -> tuple[str, str]:
        """Return the template with a caption, in two pieces."""
        return "a photo of", f", {caption}"


class SEARLE(TextualInversion):
    """q = T("a photo of $ that CAPTION") with phi(i) in the place of the dollar sign.

    Baldrati et al., Zero-Shot Composed Image Retrieval with Textual Inversion (ICCV 2023); github.com/miccunifi/SEARLE:
    template in src/validate.py, phi in src/phi.py, its layers four times as wide as an embedding, its dropout 0.5.
    Trained by `PseudoWordDistillation`. A published file is read as it is. The published code puts the pseudo-word at
    the first dollar sign of the text; here it has its own place, whatever the caption holds.

    Args:
        weights: file of phi; None for random ones.
        width: of phi's layers; None for that of the paper.
        dropout: share of phi's activations that drop out in training.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if a number is outside of its range, or the file holds no such network.
    """

    def __init__(
        self, widths: Widths, weights: str | Path | None = None, width: int | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__(widths)
        self.phi = GeluNetwork(widths, WIDENING * widths.embed if width is None else width, dropout)
        fill(self.phi, weights)

    def pieces(self, caption: str) -> tuple[str, str]:
        """Return the template with a caption, in two pieces."""
        return "a photo of", f"that {caption}"


class LinCIR(SEARLE):
    """`SEARLE`, with a phi that is trained on texts alone, by `SelfMaskingProjection`.

    Gu et al., Language-only Training of Zero-shot Composed Image Retrieval (CVPR 2024); github.com/navervision/lincir:
    template in validate.py, phi in models.py (that of SEARLE). A published file is read as it is. The published code
    can normalise the input of phi (``--l2_normalize``); its own commands for training and evaluation do not, and
    neither does this.

    Args:
        weights: file of phi; None for random ones.
        width: of phi's layers; None for that of the paper.
        dropout: share of phi's activations that drop out in training.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if a number is outside of its range, or the file holds no such network.
    """
