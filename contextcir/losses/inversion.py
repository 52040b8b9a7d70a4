"""How textual inversion is trained without triplets: phi, from an embedding to a pseudo-word, the towers being frozen.

Each is the ``model.concept`` of a model whose ``model.contrastive`` is `WithoutTriplets`. The embeddings of images and
of captions are constants here.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import first_of_each
from contextcir.checks import between, not_negative, whole
from contextcir.devices import to_device
from contextcir.encoders.pseudo_words import prompt_of
from contextcir.errors import InputError
from contextcir.files import stable_hash
from contextcir.fusion.base import Fusion
from contextcir.fusion.inversion import TextualInversion
from contextcir.losses.contrastive import TEMPERATURES, InfoNCE
from contextcir.losses.gathering import gather_ids, gather_rows, local_offset, rows_per_rank
from contextcir.losses.maps import ConceptReading
from contextcir.losses.optimised_words import OptimisedWords
from contextcir.losses.text_cc import ConceptLoss, MeanOverPhrases

PHOTO = ("a photo of", "")  # of a pseudo-word alone


class InversionLoss(ConceptLoss):
    """A loss that trains the phi of a `TextualInversion`.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
    """

    needs_maps = False
    needs_phrases = False
    reads_clauses = False  # unlike the other losses that need no phrases

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion without phi."""
        if not isinstance(fusion, TextualInversion):
            raise InputError(
                f"{type(self).__name__} trains the phi of Pic2Word, SEARLE or LinCIR, and {type(fusion).__name__} has "
                "none: choose one of these fusions, or train without this loss (model.concept: null)",
                setting="model.concept",
            )


class ImageReconstruction(InversionLoss):
    """L = (CE(i -> t) + CE(t -> i)) / 2, t = T("a photo of *") with phi(i) for the star: Pic2Word's loss.

    Saito et al. (CVPR 2023); github.com/google-research/composed_image_retrieval, src/trainer.py. Each image is
    classified among the texts and each text among the images of all ranks, by cosines divided by the temperature. The
    images are references and targets alike; each counts once, however often it is in the batches of all ranks.

    Args:
        weight: the factor of this loss in the total.
        temperature: 0.01 as published, where it is that of OpenAI's CLIP.

    Raises:
        InputError: if the weight is negative, or the temperature outside of `TEMPERATURES`.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 0.01) -> None:
        super().__init__(weight)
        self.contrast = InfoNCE(between(temperature, *TEMPERATURES, "model.concept.temperature"))

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over the images of all ranks, without the weight of the loss."""
        fusion = cast(TextualInversion, reading.fusion)
        embedding, ids = distinct(*reading.images())
        prompt = prompt_of(reading.phrases.backbone.tokenizer, [PHOTO] * len(ids))
        text = fusion.fill_gaps(prompt, fusion.phi(embedding))  # (U, E)
        return self.contrast(text, embedding, embedding, ids, ids)


class PseudoWordDistillation(InversionLoss):
    """L = -mean_k log(exp(cos(w_k, v_k) / r) / sum_{u not w_k} exp(cos(w_k, u) / r)): SEARLE's distillation.

    v_k = phi(i_k), w_k is the pseudo-word that was optimised for image k alone (`OptimisedWords`), and u stands for all
    other w and v of the batch, on all ranks; the same with w and v exchanged, and the mean of both. Baldrati et al.
    (ICCV 2023); github.com/miccunifi/SEARLE, ``contrastive_loss`` of src/utils.py. Images are the references of the
    batch, each counted once on all ranks. A word is optimised when its image comes for the first time, and kept in
    memory; it depends on the image and the towers alone, so that a resumed run has the same.

    **Left out** is SEARLE's regularisation (``lambda_gpt``, of weight 0.75 beside this loss, and 0.5 in the optimised
    words): it needs a list of concepts (classes of OpenImages there) and sentences that GPT-Neo wrote of each. It keeps
    pseudo-words near words: expect less of this than of published weights.

    Args:
        weight: the factor of this loss in the total.
        temperature: r, 0.25 as published.
        steps: of the optimisation of a word, 350 as published; its time is that of so many passes of a short text.

    Raises:
        InputError: if the weight is negative, the temperature outside of `TEMPERATURES`, or there is no step.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 0.25, steps: int = 350) -> None:
        super().__init__(weight)
        self.temperature = between(temperature, *TEMPERATURES, "model.concept.temperature")
        self.words = OptimisedWords(whole(steps, 1, "model.concept.steps"))

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over the images of all ranks, without the weight of the loss."""
        fusion = cast(TextualInversion, reading.fusion)
        embedding, ids = distinct(*reading.references())
        optimised = self.words.of(fusion, reading.phrases.backbone.tokenizer, embedding, ids)  # (U, D)
        return self.compare(optimised, fusion.phi(embedding), ids)

    def compare(self, optimised: Tensor, mapped: Tensor, ids: Tensor) -> Tensor:
        """Return the loss of pseudo-words (U, D) each of images with ids (U,); a collective call."""
        with torch.autocast(mapped.device.type, enabled=False):
            wide = torch.promote_types(mapped.dtype, torch.float32)
            sides = torch.stack([functional.normalize(x.to(wide), dim=-1) for x in (optimised, mapped)])  # (2, U, D)
            counts = rows_per_rank(len(ids), mapped.device)
            gathered = gather_rows(sides.transpose(0, 1), counts).transpose(0, 1)  # (2, N, D)
            everyone, count = gather_ids(ids, mapped.device, counts), sum(counts)
            own = torch.arange(len(ids)) + local_offset(counts)  # (U,)
            scores = sides.flatten(0, 1) @ gathered.flatten(0, 1).T / self.temperature  # (2U, 2N)
            positive = torch.cat([own + count, own])  # (2U,) the other word of the same image
            same = (ids[:, None] == everyone).repeat(2, 2)  # (2U, 2N) words of the same image, the own one among them
            same = same.scatter(1, positive[:, None], False)
            same, positive = (to_device(part, mapped.device) for part in (same, positive))
            scores = scores.masked_fill(same, float("-inf"))
            return functional.cross_entropy(scores, positive, reduction="sum") / (2 * count) * len(counts)


class SelfMaskingProjection(InversionLoss, MeanOverPhrases):
    """L = mean_e (T(c') - T(c))_e^2: a caption c, and c' with one pseudo-word phi(T(c) + noise) for all its keywords.

    Gu et al. (CVPR 2024); github.com/navervision/lincir, train_phi.py and loader.py. Only texts are read. The noise
    brings texts nearer to images: u z, with u uniform in [0, 1] and z normal, drawn for each caption. Keywords are the
    noun phrases of the batch; in the published code, runs of nouns, adjectives and determiners that spaCy finds. In a
    caption without any, one word is the keyword (always the same one; drawn anew each time there); a blank caption is
    "a photo of" the pseudo-word. All keywords of a caption become the same pseudo-word, as published. The embeddings
    are not normalised.

    Args:
        weight: the factor of this loss in the total.
        noise: a factor of the noise, 1 as published.

    Raises:
        InputError: if a number is negative.
    """

    def __init__(self, weight: float = 1.0, noise: float = 1.0) -> None:
        super().__init__(weight)
        self.noise = not_negative(noise, "model.concept.noise")

    def values(self, reading: ConceptReading) -> Tensor:
        """Return the loss of each caption, (B,)."""
        fusion, tokenizer = cast(TextualInversion, reading.fusion), reading.phrases.backbone.tokenizer
        text = reading.features.text.embedding.detach()  # (B, E)
        noise = torch.rand(len(text), 1, device=text.device) * torch.randn(text.shape, device=text.device)
        words = fusion.phi(text + self.noise * noise.to(text.dtype))  # (B, D)
        masked = prompt_of(tokenizer, self.masked(reading))
        wide = torch.promote_types(text.dtype, torch.float32)
        return (fusion.fill_gaps(masked, words).to(wide) - text.to(wide)).square().mean(dim=-1)

    @staticmethod
    def masked(reading: ConceptReading) -> list[list[str]]:
        """Return the captions in pieces, between which their keywords stood."""
        phrases = reading.phrases
        spans: list[list[tuple[int, int]]] = [[] for _ in phrases.captions]
        for row, (start, end) in zip(phrases.owner.tolist(), phrases.spans.tolist(), strict=True):
            spans[row].append((start, end))
        clean = phrases.backbone.tokenizer.clean
        return [without(clean(caption), keywords) for caption, keywords in zip(phrases.captions, spans, strict=True)]


def without(caption: str, keywords: list[tuple[int, int]]) -> list[str]:
    """Return the pieces of a caption between its keywords, given as characters; some word where there are none.

    Keywords that overlap are one.
    """
    if not keywords:
        words = caption.split()
        if not words:
            return list(PHOTO)
        chosen = stable_hash(caption) % len(words)
        return [" ".join(words[:chosen]), " ".join(words[chosen + 1 :])]
    pieces, end = [], 0
    for first, last in sorted(keywords):
        if first >= end:
            pieces.append(caption[end:first])
        end = max(end, last)
    return [*pieces, caption[end:]]


def distinct(embedding: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings (U, E) of the different images among N, and their ids (U,), on the host; a collective call.

    An image that several ranks have is left to the first of them, so that it counts once.
    """
    unique, _, first = first_of_each(ids)
    counts = rows_per_rank(len(unique), embedding.device)
    everyone = gather_ids(unique, embedding.device, counts)  # (N,)
    mine = ~torch.isin(unique, everyone[: local_offset(counts)])  # (U,)
    return embedding[to_device(first[mine], embedding.device)], unique[mine]
