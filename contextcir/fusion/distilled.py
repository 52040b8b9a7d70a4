"""A text tower that reads whole captions, and was taught what their clauses give alone."""

from collections.abc import Sequence

from contextcir.batch import Clauses
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import TextFeatures
from contextcir.fusion.baselines import ClauseSum


class DistilledSum(ClauseSum):
    """q = n(i) + exp(s) t'(caption): `ClauseSum` in training; in use, a second text tower reads the whole caption.

    The backbone's tower is trained clause by clause, and is the teacher. ``student``, a copy of it, is trained by
    `ClauseDistillation` alone, to give for a whole caption what the teacher gives for its clauses. Two towers, because
    one that serves both readings finds an easier way: embeddings of clauses that are all alike add up correctly.

    ``scale``: as that of ClauseSum.

    Raises:
        InputError: if the scale is not positive.
    """

    trained_by = "ClauseDistillation"
    student: OpenCLIPBackbone

    def __init__(self, widths: Widths, scale: float = 1 / 30) -> None:
        super().__init__(widths, scale)

    def connect(self, backbone: OpenCLIPBackbone) -> None:
        """Copy the text tower."""
        self.student = backbone.text_copy()

    @property
    def reads_clauses(self) -> bool:  # type: ignore[override]
        """Whether captions are encoded clause by clause: in training."""
        return self.training

    def encode_text(self, backbone: OpenCLIPBackbone, captions: Sequence[str], clauses: Clauses | None) -> TextFeatures:
        """Return the features of B captions: in training by their clauses, else as whole texts by the student."""
        return super().encode_text(backbone if self.training else self.student, captions, clauses)
