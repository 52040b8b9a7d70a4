"""A text tower that reads whole captions, and was taught what their clauses give alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contextcir.batch import Clauses
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.clause_texts import encode_by_clause
from contextcir.encoders.features import TextFeatures
from contextcir.errors import InputError
from contextcir.fusion.baselines import ClauseSum, add_text


class DistilledSum(ClauseSum):
    """q = n(i) + exp(s) t'(caption): `ClauseSum` in training; in use, a second text tower reads the whole caption.

    The tower t of the backbone is trained clause by clause, and is the teacher. The student t' has the teacher's
    weights plus ``differences``, which start at 0 and are trained by `ClauseDistillation` alone, to give for a whole
    caption what the teacher gives for its clauses. So the student follows the teacher, which is trained at the same
    time. The teacher learns nothing from that loss: a tower that serves both readings finds an easier way, in which
    the embeddings of all clauses are alike.

    Args:
        scale: as that of ClauseSum.

    Raises:
        InputError: if the scale is not positive, or the text tower is frozen.
    """

    trained_by = "ClauseDistillation"

    def __init__(self, widths: Widths, scale: float = 1 / 30) -> None:
        super().__init__(widths, scale)
        self.differences = nn.ParameterList()
        self._names: list[str] = []

    def connect(self, backbone: OpenCLIPBackbone) -> None:
        """Make a difference for every weight of the text tower that is trained."""
        members = sorted(backbone.parameter_groups()["text_tower"])
        self._names = [name for name in members if backbone.get_parameter(name).requires_grad]
        if not self._names:
            raise InputError(
                "DistilledSum trains the text tower, and it is frozen: let some of its blocks train",
                setting="model.backbone.trainable_text_blocks",
            )
        self.differences.extend(nn.Parameter(torch.zeros_like(backbone.get_parameter(name))) for name in self._names)

    def parameter_groups(self) -> dict[str, set[str]]:
        """Return the names of parameters that an optimizer may give a rate of their own, by group."""
        return {**super().parameter_groups(), "student": {f"differences.{n}" for n in range(len(self._names))}}

    @property
    def reads_clauses(self) -> bool:  # type: ignore[override]
        """Whether captions are encoded clause by clause: in training."""
        return self.training

    def encode_text(self, backbone: OpenCLIPBackbone, captions: Sequence[str], clauses: Clauses | None) -> TextFeatures:
        """Return the features of B captions: in training by their clauses, else as whole texts by the student."""
        if self.training:
            return super().encode_text(backbone, captions, clauses)
        return self.encode_by_student(backbone, captions)

    def compose_as_constant(self, image: Tensor, text: Tensor) -> Tensor:
        """Return queries (N, E) of embeddings of images and texts (N, E) each; no gradient reaches the scale."""
        return add_text(image, text, self.log_scale.detach())

    def encode_by_student(self, backbone: OpenCLIPBackbone, captions: Sequence[str]) -> TextFeatures:
        """Return the features of B captions as the student reads them; gradients reach the differences only."""
        backbone.load_weights()  # before they are replaced
        weights = {
            f"backbone.{name}": backbone.get_parameter(name).detach() + difference
            for name, difference in zip(self._names, self.differences, strict=True)
        }
        return torch.func.functional_call(_WholeCaptions(backbone), weights, (captions,))


class _WholeCaptions(nn.Module):
    """A backbone as a function of captions, which may be called with other weights."""

    def __init__(self, backbone: OpenCLIPBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, captions: Sequence[str]) -> TextFeatures:
        return encode_by_clause(self.backbone, captions, None)
