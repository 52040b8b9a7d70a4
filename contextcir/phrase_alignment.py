"""Phrase alignment: the patches of an image, taken together, should be closer to its phrases than those of others."""

from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from contextcir.concept import ConceptLoss, mean_over_phrases
from contextcir.concept_maps import ConceptEmbeddings, ConceptReading
from contextcir.contrastive import gather_rows, local_offset, repeats, rows_per_rank, world_size


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
