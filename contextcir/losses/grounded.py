"""Losses that ground phrases in the image by CLIP's own similarity of patches and phrases.

`PhraseAlignment` teaches that similarity from captions alone; `GroundedConsistency` compares attention with it.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from contextcir.checks import between
from contextcir.devices import to_device
from contextcir.errors import InputError
from contextcir.files import stable_hash
from contextcir.losses.contrastive import TEMPERATURES, repeats
from contextcir.losses.gathering import gather_ids, gather_rows, local_offset, rows_per_rank, world_size
from contextcir.losses.maps import (
    ConceptEmbeddings,
    ConceptReading,
    jensen_shannon,
    log_deviations,
    lost_contrast,
    peakedness,
    shares,
)
from contextcir.losses.text_cc import CONTRASTS, UNCOUNTED, ConceptLoss, mean_over_phrases


class PhraseAlignment(ConceptLoss):
    """InfoNCE that chooses the image of a phrase, encoded alone, among the reference images of all ranks.

    The score of an image is the mean cosine of its patches. It is a sum over patches, so each patch's share of it says
    where the phrase is, without labels of places: the idea of class activation maps (Zhou et al., CVPR 2016), with
    phrases for classes. Images whose captions contain the same wording are not counted as negatives.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
        temperature: of the softmax over images.

    Raises:
        InputError: if the weight is negative, or the temperature outside of `TEMPERATURES`.
    """

    needs_maps = False

    def __init__(self, weight: float = 0.1, temperature: float = 0.1) -> None:
        try:
            super().__init__(weight)
            self.temperature = between(temperature, *TEMPERATURES, "model.concept.temperature")
        except InputError as error:  # this loss may also be the ``alignment`` of GroundedConsistency
            name = str(error.setting).rpartition(".")[2]
            raise InputError(f"{name} of PhraseAlignment: {error.problem}", setting="model.concept") from None

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over the phrases of all ranks, without the weight of the loss."""
        return self.from_embeddings(reading.embeddings())

    def from_embeddings(self, given: ConceptEmbeddings) -> Tensor:
        """Return the loss of given patches and phrases; a collective call."""
        with torch.autocast(given.patches.device.type, enabled=False):
            device = given.patches.device
            counts = rows_per_rank(len(given.patches), device)
            images = gather_rows(given.patches.mean(dim=1), counts)  # (J, E) of all ranks
            own = given.image + local_offset(counts)  # (P,)
            numbers = torch.arange(len(given.patches)) + local_offset(counts)
            ids = gather_ids(numbers if given.image_id is None else given.image_id, device, counts)  # (J,)
            scores = given.wordings @ images.T / self.temperature  # (N, J)
            excluded = repeats(ids) | self._captioned_alike(given, ids, own)  # (P, J)
            excluded = to_device(excluded.scatter(1, own[:, None], False), device)
            row, own = (to_device(part, device) for part in (given.row, own))
            logits = scores[row].masked_fill(excluded, float("-inf"))
            return mean_over_phrases(functional.cross_entropy(logits, own, reduction="none"))

    def _captioned_alike(self, given: ConceptEmbeddings, ids: Tensor, own: Tensor) -> Tensor:
        """Return the images (P, J) that have a caption, on any rank, with the wording of the phrase; on the host."""
        wording = torch.tensor([wording_id(text) for text in given.texts], dtype=torch.long)
        pairs = torch.stack([wording[given.row], ids[own]], dim=1)  # (P, 2)
        pairs = gather_ids(pairs, given.patches.device).T.contiguous()  # (2, all P)
        wordings, which = pairs[0].unique(return_inverse=True)
        images, column = ids.unique(return_inverse=True)  # (J,)
        together = torch.zeros(len(wordings), len(images), dtype=torch.bool)
        together[which, torch.searchsorted(images, pairs[1])] = True
        return together[torch.searchsorted(wordings, wording[given.row])][:, column]  # (P, J)


def centre(given: ConceptEmbeddings) -> Tensor:
    """Return the mean embedding (E,) of the phrases of all ranks, without a gradient; 0 without any phrase."""
    phrases = given.wordings.detach()[to_device(given.row, given.wordings.device)]  # (P, E)
    total = torch.cat([phrases.sum(dim=0), phrases.new_full((1,), len(phrases))])  # (E + 1,)
    if world_size() > 1:
        dist.all_reduce(total)
    return total[:-1] / total[-1].clamp(min=1)


def wording_id(text: str) -> int:
    """Return an int64 for a text, the same on all ranks."""
    return stable_hash(text) - 2**63


class GroundedConsistency(ConceptLoss):
    """Where a phrase attends in its caption, against where CLIP's similarity places it, plus `PhraseAlignment`.

    The places are the similarity of patches and phrase in CLIP's space (MaskCLIP, Zhou et al., ECCV 2022), less the
    patch's similarity to the mean of all phrases, as shares of the patches. They are a constant here, trained by
    `PhraseAlignment` from captions alone, and need no pass of the fusion. Phrases are weighted by how peaked their
    places are: for phrases that name nothing in the image, they hardly are.

    Making maps uniform does not reduce the loss: a map that is flatter than its places, or than ``least_contrast``
    where these are more peaked, costs the square of the contrast that it lacks. Without that term maps became flatter
    although nothing else was minimised, since a peaked map of wrong places is further from the right ones than a flat
    one.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
        temperature: of the softmax over patches.
        alignment: the loss that trains the places; its weight, 1 if None is given, is that in the sum of both.
        least_contrast: standard deviation of the logarithm of a map above which it is peaked enough.

    Raises:
        InputError: if the weight is negative, the temperature outside of `TEMPERATURES`, or the contrast outside of
            `CONTRASTS`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        temperature: float = 0.05,
        alignment: PhraseAlignment | None = None,
        least_contrast: float = 0.5,
    ) -> None:
        super().__init__(weight)
        self.temperature = between(temperature, *TEMPERATURES, "model.concept.temperature")
        self.alignment = alignment or PhraseAlignment(1.0)
        self.least_contrast = between(least_contrast, *CONTRASTS, "model.concept.least_contrast")

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over the phrases of all ranks, without the weight of the loss."""
        embeddings = reading.embeddings()
        context, counted = reading.in_context()
        consistency = self.consistency(context, self.places(embeddings), counted)
        return consistency + self.alignment.weight * self.alignment.from_embeddings(embeddings)

    def consistency(self, context: Tensor, places: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the consistency alone, of P phrases' attention (P, N) and their places (P, N), a constant.

        ``counted`` (P,): the phrases that count; None for all.
        """
        places = places.detach()
        apart = jensen_shannon(shares(context), places)
        flatter = lost_contrast(context, log_deviations(places)[1].clamp(max=self.least_contrast))
        values = peakedness(places) * (apart + flatter)  # (P,)
        return mean_over_phrases(values if counted is None else values.masked_fill(~counted, UNCOUNTED))

    @torch.no_grad()
    def places(self, given: ConceptEmbeddings) -> Tensor:
        """Return where each phrase is by CLIP's similarity: shares (P, V - 1) of the patches."""
        with torch.autocast(given.patches.device.type, enabled=False):
            phrases = (given.wordings - centre(given))[to_device(given.row, given.wordings.device)]  # (P, E)
            return (similarity(given.patches, phrases, given.image) / self.temperature).softmax(dim=1)


def similarity(patches: Tensor, phrases: Tensor, image: Tensor) -> Tensor:
    """Return the products (P, N) of each phrase (P, E) with the patches (I, N, E) of its own image (P,), on the host.

    The phrases of an image are grouped and padded, so that patches need not be copied for each phrase.
    """
    order = image.argsort(stable=True)  # (P,)
    counts = image.bincount(minlength=len(patches))  # (I,)
    slot = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image[order]]  # (P,)
    most = int(counts.max()) if len(image) else 0
    place = torch.empty_like(image).scatter(0, order, image[order] * most + slot)  # (P,) among all I x C
    place = to_device(place, phrases.device)
    grouped = phrases.new_zeros(len(patches) * most, phrases.shape[1]).index_copy(0, place, phrases)  # (I C, E)
    products = grouped.unflatten(0, (len(patches), most)) @ patches.mT  # (I, C, N)
    return products.flatten(0, 1)[place]
