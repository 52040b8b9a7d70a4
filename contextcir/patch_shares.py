"""Where on an image a phrase looks, as shares of the patches that sum to 1, and how far two such maps are apart."""

import math

import torch
from torch import Tensor

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
