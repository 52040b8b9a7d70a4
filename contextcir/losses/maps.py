"""Attention of the patches of an image to noun phrases: in their captions, and each phrase alone.

Where on an image a phrase attends, as shares of the patches that sum to 1, and how far two such maps are apart.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import first_of_each
from contextcir.devices import to_device
from contextcir.encoders.features import TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts, QueryFeatures
from contextcir.fusion.base import Fusion
from contextcir.losses.gathering import gather_ids, gather_rows, rows_per_rank


class ConceptMaps(NamedTuple):
    """Attention to P phrases in the context of their captions, and alone.

    ``context`` L maps (B, H, V, K) of the captions; ``isolated`` L maps (I, H, V, Kp) of the I different phrases as
    texts of their own, over the image of their caption, one map for equal words on the same image. ``owner`` (P,) row
    of the caption, ``alone`` (P,) row of the isolated phrase. ``context_tokens`` (P, K) bool and
    ``isolated_tokens`` (I, Kp) bool: the keys of the phrase, without start and end of text. V begins with CLS.
    """

    context: tuple[Tensor, ...]
    isolated: tuple[Tensor, ...]
    owner: Tensor
    alone: Tensor
    context_tokens: Tensor
    isolated_tokens: Tensor


class ConceptEmbeddings(NamedTuple):
    """The patches of I different images, and the N wordings of P phrases, in the space of CLIP's embeddings.

    ``patches`` (I, V - 1, E) and ``wordings`` (N, E), L2-normalised. ``image`` (P,) and ``row`` (P,): which of them
    belong to each phrase. ``image_id`` (I,) names the images on all ranks; None where unknown. These three are on the
    host. ``texts``: the N wordings.
    """

    patches: Tensor
    wordings: Tensor
    image: Tensor
    row: Tensor
    image_id: Tensor | None
    texts: list[str]


class ConceptReading:
    """The noun phrases of a batch of queries as concept losses read them; everything is computed on first use.

    Args:
        fusion: The fusion that composed the queries.
        features: What was computed for them.
        image_id: (B,) names the reference images: a wording is read once over each. None: all differ. Ids that are on
            the host, as in training, need no waiting for a GPU.
        images: Embeddings (U, E) and ids (U,) of the different images of the batch; None for its references.

    Raises:
        ValueError: if the queries were composed without phrases.
    """

    def __init__(
        self,
        fusion: Fusion,
        features: QueryFeatures,
        image_id: Tensor | None = None,
        images: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.fusion = fusion
        self.features = features
        self.phrases = phrases_in(features)
        owner = self.phrases.owner
        image_id = None if image_id is None else image_id.cpu()
        self._image_id = image_id
        self._images = images
        self._device = features.image.embedding.device
        self._image = owner if image_id is None else image_id[owner]  # (P,)

    def image_of_rows(self) -> list[int]:
        """Return a number for the reference image of each of B rows, equal for equal images."""
        ids = self._image_id
        return list(range(len(self.phrases.captions))) if ids is None else ids.tolist()

    def references(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, E) and, on the host, ids (B,) of the references; all differ if unknown.

        Without gradients.
        """
        embedding, given = self.features.image.embedding.detach(), self._image_id
        return embedding, torch.arange(len(embedding)) if given is None else given

    def images(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, E) and, on the host, ids (N,) of the images of this batch, without gradients.

        They are its different images; where these are not given its references, of which some may be equal.
        """
        if self._images is None:
            return self.references()
        embedding, ids = self._images
        return embedding.detach(), ids.cpu()

    def candidates(self) -> Tensor:
        """Return the embeddings (U, E) of the different images in the batches of all ranks, without gradients."""
        embedding, ids = self.images()
        counts = rows_per_rank(len(ids), self._device)
        _, _, first = first_of_each(gather_ids(ids, self._device, counts))
        return gather_rows(embedding, counts)[to_device(first, self._device)]

    def maps(self) -> ConceptMaps:
        """Return both attentions, with gradients through both."""
        return self._read(self.phrases.features)

    def detached_maps(self) -> ConceptMaps:
        """Return both attentions, with gradients only through that in context: the isolated pass keeps no graph."""
        with torch.no_grad():
            maps = self._read(self.phrases.detached)
        return maps._replace(context=self.features.fused.attention)

    def context_without_ends(self) -> tuple[Tensor, ...]:
        """Return L maps (B, H, V, K) in context, without a gradient to the start and end tokens of the captions."""
        attention, valid = self.features.fused.attention, self.features.text.valid
        ends = functional.pad(ends_of(valid), (0, attention[0].shape[-1] - valid.shape[1]))
        return without_gradient_to_ends(attention, ends)

    def in_context(self) -> tuple[Tensor, Tensor]:
        """Return the attention of all patches to P phrases in their captions (P, V - 1), and which phrases count (P,).

        The maps have gradients. The other phrases were truncated with their captions: their maps are 0.
        """
        keys = keys_in_context(self.fusion, self.features)  # (P, K)
        return phrase_maps(self.context_without_ends(), self._here(self.phrases.owner), keys), keys.any(dim=1)

    def embeddings(self) -> ConceptEmbeddings:
        """Return patches and phrases alone, comparable, with gradients through both, without a pass of the fusion."""
        phrases, tokens, image_id = self.phrases, self.features.image.tokens, self._image_id
        image = phrases.owner
        if image_id is not None:
            image_id, row, first = first_of_each(image_id)  # (I,), (B,), (I,)
            tokens, image = tokens[self._here(first)], row[image]  # (I, V, D), (P,)
        wordings = tokens.new_zeros(0, phrases.backbone.widths.embed)
        if len(phrases):
            wordings = phrases.features().embedding  # (N, E)
        with torch.autocast(tokens.device.type, enabled=False):  # cosines in low precision are off by hundredths
            patches = phrases.backbone.project_tokens(tokens[:, 1:])  # (I, V - 1, E)
            patches, wordings = (functional.normalize(x, dim=-1) for x in (patches, wordings))
        return ConceptEmbeddings(patches, wordings, image, phrases.row, image_id, phrases.texts)

    def _read(self, encode: Callable[[], TextFeatures]) -> ConceptMaps:
        """Attend from the vision tokens that are computed already to each phrase's own short text, encoded once."""
        phrases, fused = self.phrases, self.features.fused
        context_tokens = keys_in_context(self.fusion, self.features)  # (P, K)
        owner = self._here(phrases.owner)
        if not len(phrases):
            return ConceptMaps(fused.attention, (), owner, owner, context_tokens, context_tokens.new_zeros(0, 0))
        pairs = torch.stack([self._image, phrases.row], dim=1)  # (P, 2)
        _, alone, first = first_of_each(pairs)  # (P,) the pair of image and wording; (I,) a phrase of each
        wording, slot = phrases.row[first], torch.zeros_like(first)  # (I,)
        content = self._here(phrases.content[wording])  # (I, Tp)
        row, image = self._here(wording), self._here(phrases.owner[first])  # (I,)
        text = encode()
        isolated = self.fusion.attention(self.features.image.tokens[image], text.tokens[row], text.valid[row])
        isolated_tokens = self.fusion.keys_of_phrases(content, slot)  # (I, Kp)
        return ConceptMaps(fused.attention, isolated, owner, self._here(alone), context_tokens, isolated_tokens)

    def _here(self, values: Tensor) -> Tensor:
        return to_device(values, self._device)


def phrases_in(features: QueryFeatures) -> PhraseTexts:
    """Return the phrases of composed queries; raise ValueError where they were composed without any given."""
    if features.phrases is None:
        raise ValueError(
            "the queries were composed without `phrases`, which a concept loss and attention to phrases need"
        )
    return features.phrases


def keys_in_context(fusion: Fusion, features: QueryFeatures) -> Tensor:
    """Return the keys (P, K) that stand for each phrase in its caption; none for one that the fusion did not read.

    Such a phrase was truncated with its caption, or stands between clauses that were encoded alone.
    """
    phrases, valid = phrases_in(features), features.text.valid
    owner, tokens = (to_device(part, valid.device) for part in (phrases.owner, phrases.tokens))
    return fusion.keys_of_phrases(tokens & valid[owner], phrases.slot)


def ends_of(valid: Tensor) -> Tensor:
    """Return the mask (B, T) of the first and the last of the valid tokens (B, T): start and end of text."""
    # The last one, not one before a gap: between clauses that are encoded alone, tokens are not valid.
    ends = valid & (valid.flip(1).cumsum(dim=1).flip(1) == 1)
    ends[:, 0] = True
    return ends


def without_gradient_to_ends(attention: tuple[Tensor, ...], ends: Tensor) -> tuple[Tensor, ...]:
    """Return L maps (B, H, V, K) unchanged, but with a gradient only for how words share the attention among them.

    The logits of the ``ends`` (B, K), start and end of text, get no gradient: no loss of these maps is reduced by
    moving attention to them.
    """
    left = [layer.masked_fill(ends[:, None, None], 0.0).sum(dim=-1, keepdim=True) for layer in attention]
    return tuple(layer / rest.clamp(min=1e-6) * rest.detach() for layer, rest in zip(attention, left, strict=True))


def phrase_maps(maps: tuple[Tensor, ...], rows: Tensor, tokens: Tensor) -> Tensor:
    """Return the attention of every patch to each phrase, (P, V - 1): the mean over layers, heads and its tokens.

    CLS is left out; the map of a phrase without tokens is 0. ``maps`` L times (B, H, V, K), ``rows`` (P,) which of the
    B belongs to each phrase, ``tokens`` (P, K) bool.
    """
    mean = torch.stack([layer[:, :, 1:].mean(dim=1) for layer in maps]).mean(dim=0)  # (B, V - 1, K)
    share = tokens.to(mean.dtype) / tokens.sum(dim=1, keepdim=True).clamp(min=1)  # (P, K)
    return (mean[rows] * share[:, None, :]).sum(dim=-1)  # (P, V - 1); autocast would round a matrix product


def phrase_attention(fusion: Fusion, features: QueryFeatures) -> Tensor:
    """Return the attention of every patch to each phrase in its caption (P, V - 1); NaN for phrases without a token."""
    keys = keys_in_context(fusion, features)  # (P, K)
    owner = to_device(phrases_in(features).owner, keys.device)
    maps = phrase_maps(tuple(layer.float() for layer in features.fused.attention), owner, keys)
    return maps.masked_fill(~keys.any(dim=1, keepdim=True), float("nan"))


LEAST = 1e-12  # lower bound of attention and shares, which keeps logarithms finite


def shares_at_contrast(maps: Tensor, contrast: float) -> Tensor:
    """Turn the positive attention of N patches to each phrase (P, N) into shares of the patches, all of one contrast.

    The logarithm of a map is standardised to a mean of 0 and a standard deviation of ``contrast``, and goes through a
    softmax. That removes any factor of a map (the length of the text; the attention of all patches to start and end of
    text) and any power (how peaked it is), and keeps the order and spacing of the patches. A map without structure,
    which varies by less than 1 %, tends to equal shares.
    """
    centred, deviation = log_deviations(maps)
    return (contrast * centred / deviation).softmax(dim=1)


def log_deviations(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log of maps (P, N), less its mean, and its standard deviation (P, 1), at least 0.01."""
    logarithm = maps.clamp(min=LEAST).log()
    centred = logarithm - logarithm.mean(dim=1, keepdim=True)
    return centred, (centred.square().mean(dim=1, keepdim=True) + 1e-4).sqrt()


def lost_contrast(maps: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared share of its contrast that a map (P, N) lacks: (P,), 0 for peaked ones, always below 1.

    The share is 1 less the ratio of the deviation from `log_deviations` to the ``wanted`` one (P, 1). The gradient is
    small for a map without structure, as at the start of training, which has nothing yet that could be made clearer.
    """
    return (1 - log_deviations(maps)[1] / wanted).relu().square().squeeze(1)


def shares(maps: Tensor) -> Tensor:
    """Turn the attention of N patches to each phrase (P, N) into shares of the patches (P, N)."""
    return maps / maps.sum(dim=1, keepdim=True).clamp(min=LEAST)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of shares (P, N) in bits: (P,), 0 for equal shares, 1 for disjoint ones."""
    mean = ((first + second) / 2).clamp(min=LEAST).log()
    terms = [side * (side.clamp(min=LEAST).log() - mean) for side in (first, second)]
    return (terms[0] + terms[1]).sum(dim=1) / (2 * math.log(2))


def peakedness(maps: Tensor) -> Tensor:
    """Return 1 - entropy / ln N of shares (P, N): (P,), 1 where all is on one patch, 0 for equal shares."""
    entropy = -torch.xlogy(maps, maps).sum(dim=1)
    return (1 - entropy / math.log(max(2, maps.shape[1]))).clamp(0, 1)
