"""The networks of textual inversion, from an image's embedding to a pseudo-word, and the files that hold them.

Names of weights are those of the published files, so that these load as they are.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contextcir.checks import fraction, whole
from contextcir.encoders.backbone import Widths
from contextcir.encoders.pretrained import are_postponed
from contextcir.errors import InputError
from contextcir.weights import checked, misfits, read_weights, under

WEIGHTS = "model.fusion.weights"
MOST_WIDTH = 65_536  # many times that of the published ones, at most 5,120
MOST_LAYERS = 256
# Keys under which the published files keep the network: Pic2Word's; SEARLE's and LinCIR's.
WRAPPERS = ("state_dict_img2text", "Phi")


class ReluNetwork(nn.Module):
    """Pic2Word's network: layers of a linear map, dropout and ReLU, then a linear map; (B, E) -> (B, D).

    ``IM2TEXT`` of github.com/google-research/composed_image_retrieval, model/model.py. Dropout comes before the ReLU.

    Raises:
        InputError: if there is no layer, the width is not a whole number from 1 on, or all would drop out.
    """

    last = "fc_out.weight"  # a weight that it has

    def __init__(self, widths: Widths, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.outputs = widths.text  # D
        _check(width, dropout)
        whole(layers, 1, "model.fusion.layers", MOST_LAYERS)
        sizes = [widths.embed, *[width] * layers]
        blocks = (
            nn.Sequential(nn.Linear(before, after), nn.Dropout(dropout), nn.ReLU()) for before, after in pairwise(sizes)
        )
        self.layers = nn.Sequential(*blocks)
        self.fc_out = nn.Linear(width, widths.text)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the pseudo-words (B, D) of embeddings (B, E)."""
        return self.fc_out(self.layers(embedding))


class GeluNetwork(nn.Module):
    """SEARLE's and LinCIR's network: two layers of a linear map, GELU and dropout, then a linear map; (B, E) -> (B, D).

    ``Phi`` of github.com/miccunifi/SEARLE, src/phi.py, and of github.com/navervision/lincir, models.py.

    Raises:
        InputError: if the width is not a whole number from 1 on, or all would drop out.
    """

    last = "layers.6.weight"

    def __init__(self, widths: Widths, width: int, dropout: float) -> None:
        super().__init__()
        self.outputs = widths.text  # D
        _check(width, dropout)
        first, second, last = nn.Linear(widths.embed, width), nn.Linear(width, width), nn.Linear(width, widths.text)
        self.layers = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), second, nn.GELU(), nn.Dropout(dropout), last)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the pseudo-words (B, D) of embeddings (B, E)."""
        return self.layers(embedding)


def _check(width: int, dropout: float) -> None:
    whole(width, 1, "model.fusion.width", MOST_WIDTH)
    fraction(dropout, "model.fusion.dropout")


def fill(network: ReluNetwork | GeluNetwork, weights: str | Path | None) -> None:
    """Load the weights of a network from a file: a published checkpoint, or a state dict. None: leave them random.

    Where a checkpoint of a run will bring the weights, a file that is not on this machine is not missed.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it holds no such network, or one of another size.
    """
    if weights is None or (are_postponed() and not Path(weights).exists()):
        return
    found = read_weights(weights, WEIGHTS)
    content: Any = found.content
    inner = next((key for key in WRAPPERS if isinstance(content, Mapping) and key in content), None)
    state = content if inner is None else content[inner]
    if not isinstance(state, Mapping):
        raise InputError(f"holds {type(state).__name__}, not weights by name", file=found.path, setting=WEIGHTS)
    given = under(checked(state, found, WEIGHTS), network.last, found, WEIGHTS)
    odd = misfits(given, network.state_dict())
    if odd:
        more = f", and {len(odd) - 2} more" if len(odd) > 2 else ""
        problem = f"does not hold the network of this fusion for this CLIP: {'; '.join(odd[:2])}{more}"
        raise InputError(problem, file=found.path, setting=WEIGHTS)
    network.load_state_dict(given)
