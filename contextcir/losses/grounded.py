"""Grounded consistency: in its caption, a phrase should look where the image is most like the phrase alone.

Phrase alignment: the patches of an image, taken together, should be closer to its phrases than those of others.
"""

from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from contextcir.losses.contrastive import gather_rows, local_offset, repeats, rows_per_rank, world_size
from contextcir.losses.maps import (
    ConceptEmbeddings,
    ConceptReading,
    jensen_shannon,
    log_deviations,
    lost_contrast,
    peakedness,
    shares,
)
from contextcir.losses.text_cc import ConceptLoss, mean_over_phrases


class PhraseAlignment(ConceptLoss):
    """InfoNCE that chooses the image of a phrase, encoded alone, among the reference images of all ranks.

    The score of an image is the mean cosine of its patches. It is a sum over patches, so each one's share of it says
    where the phrase is, though nobody was told: the idea of class activation maps (Zhou et al., CVPR 2016), with
    phrases for classes. Images of which another caption says the same words do not count as negatives.

    ``weight``: the factor of this loss in the total, which the caller applies. ``temperature``: of the softmax.
    """

    def __init__(self, weight: float = 0.1, temperature: float = 0.1) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive, got {temperature} (--model.concept)")
        self.temperature = temperature

    def forward(self, reading: ConceptReading) -> Tensor:
        """The loss without its weight: mean over the phrases of all ranks."""
        return self.of(reading.embeddings())

    def of(self, given: ConceptEmbeddings) -> Tensor:
        """The loss of given patches and phrases.

        Without any phrase it is 0, with zero gradients; every rank has to call it all the same.
        """
        with torch.autocast(given.patches.device.type, enabled=False):
            counts = rows_per_rank(len(given.patches), given.patches.device)
            images = gather_rows(given.patches.mean(dim=1), counts)  # (J, E) of all ranks
            own = given.image + local_offset(counts)  # (P,)
            numbers = torch.arange(len(given.patches), device=own.device) + local_offset(counts)
            ids = gather_rows(numbers if given.image_id is None else given.image_id, counts)  # (J,)
            scores = given.wordings @ images.T / self.temperature  # (N, J)
            excluded = repeats(ids) | self._said(given, ids, own)  # (P, J)
            excluded = excluded.scatter(1, own[:, None], False)
            logits = scores[given.row].masked_fill(excluded, float("-inf"))
            return mean_over_phrases(functional.cross_entropy(logits, own, reduction="none"))

    def _said(self, given: ConceptEmbeddings, ids: Tensor, own: Tensor) -> Tensor:
        """Images (P, J) of which some caption of any rank has the wording of the phrase."""
        wording = torch.tensor([fingerprint(text) for text in given.texts], dtype=torch.long, device=own.device)
        pairs = gather_rows(torch.stack([wording[given.row], ids[own]], dim=1)).T.contiguous()  # (2, all P)
        wordings, which = pairs[0].unique(return_inverse=True)
        images, column = ids.unique(return_inverse=True)  # (J,)
        said = torch.zeros(len(wordings), len(images), dtype=torch.bool, device=own.device)
        said[which, torch.searchsorted(images, pairs[1])] = True
        return said[torch.searchsorted(wordings, wording[given.row])][:, column]  # (P, J)


def centre(given: ConceptEmbeddings) -> Tensor:
    """Mean embedding (E,) of the phrases of all ranks, without a gradient; 0 without any."""
    phrases = given.wordings.detach()[given.row]  # (P, E)
    total = torch.cat([phrases.sum(dim=0), phrases.new_tensor([len(phrases)])])  # (E + 1,)
    if world_size() > 1:
        dist.all_reduce(total)
    return total[:-1] / total[-1].clamp(min=1)


def fingerprint(text: str) -> int:
    """A number for a text, the same one on all ranks."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class GroundedConsistency(ConceptLoss):
    """A phrase's places in its caption against those that CLIP finds for it, plus what teaches CLIP to find them.

    The alone side is the similarity of patches and phrase in CLIP's space (MaskCLIP, Zhou et al., ECCV 2022), less
    what the patch has in common with all phrases, as shares of the patches. It is a constant, and `PhraseAlignment`
    makes it good, from nothing but the captions. It costs no pass of the fusion. Phrases count by how peaked it is: for
    those that name nothing in the image, it hardly is.

    Making maps uniform does not make it smaller: a map that is flatter than the places it should find, or than
    ``least_contrast`` where they are more peaked than that, costs the square of the share that it lacks. Without
    that, maps became flatter while nothing else was minimised: a map of wrong places is further from the right ones the
    more peaked it is.

    ``weight``: the factor of this loss in the total, which the caller applies. ``temperature``: of the softmax over
    patches. ``alignment``: what teaches CLIP; its weight, 1 if None is given, is that in the sum of both.
    ``least_contrast``: standard deviation of the logarithm of a map that is peaked enough, whatever the places are.
    """

    def __init__(
        self,
        weight: float = 0.1,
        temperature: float = 0.05,
        alignment: PhraseAlignment | None = None,
        least_contrast: float = 0.5,
    ) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive, got {temperature} (--model.concept)")
        self.temperature = temperature
        self.alignment = alignment or PhraseAlignment(1.0)
        self.least_contrast = least_contrast

    def forward(self, reading: ConceptReading) -> Tensor:
        """The loss without its weight: mean over the phrases of all ranks."""
        embeddings = reading.embeddings()
        context, found = reading.in_context()
        consistency = self.of(context, self.places(embeddings)[found])
        return consistency + self.alignment.weight * self.alignment.of(embeddings)

    def of(self, context: Tensor, places: Tensor) -> Tensor:
        """The consistency alone, of F phrases' attention in context (F, N) and their places (F, N), a constant."""
        places = places.detach()
        apart = jensen_shannon(shares(context), places)
        flatter = lost_contrast(context, log_deviations(places)[1].clamp(max=self.least_contrast))
        return mean_over_phrases(peakedness(places) * (apart + flatter))

    @torch.no_grad()
    def places(self, given: ConceptEmbeddings) -> Tensor:
        """Where each phrase is by CLIP's similarity: shares (P, V - 1) of the patches."""
        with torch.autocast(given.patches.device.type, enabled=False):
            phrases = (given.wordings - centre(given))[given.row]  # (P, E)
            return (similarity(given.patches, phrases, given.image) / self.temperature).softmax(dim=1)


def similarity(patches: Tensor, phrases: Tensor, image: Tensor) -> Tensor:
    """Products (P, N) of each phrase (P, E) with the patches (I, N, E) of its own image (P,).

    The phrases of an image stand together, padded, so that patches need not be copied for each phrase.
    """
    order = image.argsort(stable=True)  # (P,)
    counts = image.bincount(minlength=len(patches))  # (I,)
    slot = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image[order]]  # (P,)
    together = phrases.new_zeros(len(patches), int(counts.max()) if len(image) else 0, phrases.shape[1])  # (I, C, E)
    together[image[order], slot] = phrases[order]
    products = together @ patches.mT  # (I, C, N)
    found = phrases.new_empty(len(image), patches.shape[1])
    found[order] = products[image[order], slot]
    return found
