"""What the patches of an image attend to when it is asked for noun phrases: in their captions, and each alone.

Where on an image a phrase looks, as shares of the patches that sum to 1, and how far two such maps are apart.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.encoders.features import TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts, QueryFeatures
from contextcir.fusion.cross_attention import Fusion


class ConceptMaps(NamedTuple):
    """Attention of P phrases in the context of their captions, and alone.

    ``context`` L maps (B, H, V, K) of the captions; ``isolated`` L maps (I, H, V, Kp) of the I different phrases as
    texts of their own, over the image of their caption: the same words on the same image are there once. ``owner``
    (P,) row of the caption, ``alone`` (P,) row of the isolated phrase. ``context_tokens`` (P, K) bool and
    ``isolated_tokens`` (I, Kp) bool: the keys of the phrase, without start and end of text. V begins with CLS.
    """

    context: tuple[Tensor, ...]
    isolated: tuple[Tensor, ...]
    owner: Tensor
    alone: Tensor
    context_tokens: Tensor
    isolated_tokens: Tensor


class ConceptEmbeddings(NamedTuple):
    """The patches of I different images, and N wordings of P phrases, where CLIP compares images and texts.

    ``patches`` (I, V - 1, E) and ``wordings`` (N, E) have length 1. ``image`` (P,) and ``row`` (P,): which of them
    belong to each phrase. ``image_id`` (I,) names the images on all ranks; None where nobody knows. ``texts``: the N
    wordings.
    """

    patches: Tensor
    wordings: Tensor
    image: Tensor
    row: Tensor
    image_id: Tensor | None
    texts: list[str]


class ConceptReading:
    """Reads the noun phrases of a batch of queries; nothing is computed before a loss asks for it.

    Args:
        fusion: The fusion that composed the queries.
        features: What was computed for them; its phrases must be there.
        image_id: (B,) names the reference images: a phrase is read once over each. None: all differ.
    """

    def __init__(self, fusion: Fusion, features: QueryFeatures, image_id: Tensor | None = None) -> None:
        self.fusion = fusion
        self.features = features
        self.phrases: PhraseTexts = features.phrases
        owner = self.phrases.owner
        self._image_id = image_id
        self._image = owner if image_id is None else image_id[owner]  # (P,)

    def maps(self) -> ConceptMaps:
        """Both attentions, with gradients through both."""
        return self._read(self.phrases.features)

    def detached_maps(self) -> ConceptMaps:
        """Both attentions, with gradients through that in context only: the isolated pass keeps no graph."""
        with torch.no_grad():
            maps = self._read(self.phrases.detached)
        return maps._replace(context=self.features.fused.attention)

    def among_words(self) -> tuple[Tensor, ...]:
        """L maps (B, H, V, K) in context, without a gradient for what start and end of the captions take."""
        attention, valid = self.features.fused.attention, self.features.text.valid
        return among_words(attention, functional.pad(ends_of(valid), (0, attention[0].shape[-1] - valid.shape[1])))

    def in_context(self) -> tuple[Tensor, Tensor]:
        """Attention of every patch to F phrases in their captions (F, V - 1), with gradients, and which they are (P,).

        The others were cut away with the end of a caption.
        """
        keys = self.fusion.keys_of_phrases(self.phrases.tokens, self.phrases.slot)  # (P, K)
        found = keys.any(dim=1)
        return phrase_maps(self.among_words(), self.phrases.owner[found], keys[found]), found

    def embeddings(self) -> ConceptEmbeddings:
        """Patches and phrases alone, comparable, with gradients through both; no fusion is run for them."""
        phrases, tokens, image_id = self.phrases, self.features.image.tokens, self._image_id
        image = phrases.owner
        if image_id is not None:
            image_id, row = image_id.unique(return_inverse=True)  # (I,), (B,)
            position = torch.arange(len(row), device=row.device)
            first = torch.full_like(image_id, len(row)).scatter_reduce(0, row, position, "amin")
            tokens, image = tokens[first], row[image]  # (I, V, D), (P,)
        wordings = tokens.new_zeros(0, phrases.backbone.widths.embed)
        if len(phrases):
            wordings = phrases.features().embedding  # (N, E)
        with torch.autocast(tokens.device.type, enabled=False):  # cosines in low precision are off by hundredths
            patches = phrases.backbone.project_tokens(tokens[:, 1:])  # (I, V - 1, E)
            patches, wordings = (functional.normalize(x, dim=-1) for x in (patches, wordings))
        return ConceptEmbeddings(patches, wordings, image, phrases.row, image_id, phrases.texts)

    def _read(self, encode: Callable[[], TextFeatures]) -> ConceptMaps:
        """Only vision tokens that are there already, and each phrase's own short text, encoded once."""
        phrases, fused = self.phrases, self.features.fused
        context_tokens = self.fusion.keys_of_phrases(phrases.tokens, phrases.slot)  # (P, K)
        if not len(phrases):
            nothing = context_tokens.new_zeros(0, 0)
            return ConceptMaps(fused.attention, (), phrases.owner, phrases.owner, context_tokens, nothing)
        first, alone = self._distinct()
        row, image = phrases.row[first], phrases.owner[first]  # (I,)
        text = encode()
        isolated = self.fusion.attention(self.features.image.tokens[image], text.tokens[row], text.valid[row])
        content = phrases.content[row]  # (I, Tp)
        isolated_tokens = self.fusion.keys_of_phrases(content, torch.zeros_like(row))  # (I, Kp)
        return ConceptMaps(fused.attention, isolated, phrases.owner, alone, context_tokens, isolated_tokens)

    def _distinct(self) -> tuple[Tensor, Tensor]:
        """For each of the I pairs of image and wording, its first phrase (I,); for each phrase, its pair (P,)."""
        pairs = torch.stack([self._image, self.phrases.row], dim=1)  # (P, 2)
        different, alone = pairs.unique(dim=0, return_inverse=True)
        position = torch.arange(len(pairs), device=pairs.device)
        first = torch.full((len(different),), len(pairs), device=pairs.device)
        return first.scatter_reduce(0, alone, position, "amin"), alone


def ends_of(valid: Tensor) -> Tensor:
    """Mask (B, T) of the first and the last of the valid tokens (B, T): start and end of text."""
    ends = valid & ~functional.pad(valid[:, 1:], (0, 1))
    ends[:, 0] = True
    return ends


def among_words(attention: tuple[Tensor, ...], ends: Tensor) -> tuple[Tensor, ...]:
    """L maps (B, H, V, K) as they are, but with a gradient only for how words share what the ``ends`` (B, K) leave.

    The logits of start and end of text get none: no loss of these maps is made smaller by draining attention there.
    """
    left = [layer.masked_fill(ends[:, None, None], 0.0).sum(dim=-1, keepdim=True) for layer in attention]
    return tuple(layer / rest.clamp(min=1e-6) * rest.detach() for layer, rest in zip(attention, left, strict=True))


def phrase_maps(maps: tuple[Tensor, ...], rows: Tensor, tokens: Tensor) -> Tensor:
    """Attention of every patch to each phrase, (P, V - 1): mean over layers, heads and the phrase's tokens; no CLS.

    ``maps`` L times (B, H, V, K), ``rows`` (P,) which of them each phrase uses, ``tokens`` (P, K) bool.
    """
    mean = torch.stack([layer[:, :, 1:].mean(dim=1) for layer in maps]).mean(dim=0)  # (B, V - 1, K)
    share = tokens.to(mean.dtype) / tokens.sum(dim=1, keepdim=True)  # (P, K)
    return (mean[rows] * share[:, None, :]).sum(dim=-1)  # (P, V - 1); autocast would round a matrix product


def phrase_attention(fusion: Fusion, features: QueryFeatures) -> Tensor:
    """Attention of every patch to each noun phrase in its caption (P, V - 1); NaN where a phrase has no token."""
    phrases = features.phrases
    keys = fusion.keys_of_phrases(phrases.tokens, phrases.slot)  # (P, K)
    return phrase_maps(tuple(layer.float() for layer in features.fused.attention), phrases.owner, keys)


LEAST = 1e-12  # of attention and of shares: keeps logarithms finite


def shares_at_contrast(maps: Tensor, contrast: float) -> Tensor:
    """Attention of N patches to each phrase (P, N), positive -> shares of the patches (P, N), all of one contrast.

    The logarithm of a map is brought to a mean of 0 and a standard deviation of ``contrast``, and goes through a
    softmax. That takes away any factor of a map (the length of the text; what start and end of text take from all
    patches) and any power (how peaked it is): what is left is the order and spacing of the patches. A map without any
    structure, that is to 1 %, tends to equal shares.
    """
    centred, deviation = log_deviations(maps)
    return (contrast * centred / deviation).softmax(dim=1)


def log_deviations(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Log of maps (P, N), less its mean, and its standard deviation (P, 1), at least 0.01: how peaked a map is."""
    logarithm = maps.clamp(min=LEAST).log()
    centred = logarithm - logarithm.mean(dim=1, keepdim=True)
    return centred, (centred.square().mean(dim=1, keepdim=True) + 1e-4).sqrt()


def lost_contrast(maps: Tensor, wanted: Tensor) -> Tensor:
    """Square of the share of its contrast that a map (P, N) lacks: (P,), 0 for those that are peaked enough, else < 1.

    The share is 1 less the ratio of the deviation from `log_deviations` to the ``wanted`` one (P, 1). A map without
    structure, as at the start of training, is hardly pulled at: there is nothing in it yet that could be made clearer.
    """
    return (1 - log_deviations(maps)[1] / wanted).relu().square().squeeze(1)


def shares(maps: Tensor) -> Tensor:
    """Attention of N patches to each phrase (P, N) -> shares of the patches (P, N)."""
    return maps / maps.sum(dim=1, keepdim=True).clamp(min=LEAST)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of shares (P, N), over ln 2: (P,), 0 for equal ones, 1 for those that never meet."""
    mean = ((first + second) / 2).clamp(min=LEAST).log()
    terms = [side * (side.clamp(min=LEAST).log() - mean) for side in (first, second)]
    return (terms[0] + terms[1]).sum(dim=1) / (2 * math.log(2))


def peakedness(maps: Tensor) -> Tensor:
    """1 for shares (P, N) that are all on one patch, 0 for equal ones: 1 - entropy / ln N, (P,)."""
    entropy = -torch.xlogy(maps, maps).sum(dim=1)
    return (1 - entropy / math.log(max(2, maps.shape[1]))).clamp(0, 1)
