"""Text Concept-Consistency of composed queries: what a whole caption gives should follow from its clauses alone.

Unlike the losses on attention maps, these compare what is retrieved with. They need no phrases, but clauses
(`contextcir.batch.Clauses`): the parts of a caption that ask for one change each.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from contextcir.checks import between, not_negative
from contextcir.devices import to_device
from contextcir.encoders.clause_texts import encode_by_clause
from contextcir.encoders.text import Tokenizer
from contextcir.errors import InputError
from contextcir.files import stable_hash
from contextcir.fusion.base import Fusion
from contextcir.fusion.distilled import DistilledSum
from contextcir.fusion.inversion import TextualInversion
from contextcir.losses.contrastive import TEMPERATURES
from contextcir.losses.excerpts import Excerpt, captions_by_clause, compose, compose_as_teacher, normalised
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import ConceptLoss, MeanOverPhrases, mean_over_phrases


class Joined(NamedTuple):
    """Two captions joined into one: the ``text`` in the row of the first, and the row of the ``other``."""

    text: Excerpt
    other: int


JOINTS = (", ", " and ", ". ")  # between two captions that are joined


class ComposedLoss(ConceptLoss):
    """A loss on composed queries, or on the embeddings of texts in them, which reads clauses in place of phrases.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
    """

    needs_maps = False
    needs_phrases = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion whose query is no sum of texts: clauses can't be read alone and added."""
        if isinstance(fusion, TextualInversion):
            raise InputError(
                f"{type(self).__name__} composes queries of clauses, and {type(fusion).__name__} puts the whole "
                "caption into a template: choose another fusion, or train without this loss (model.concept: null)",
                setting="model.concept",
            )


class ClauseConsistency(ComposedLoss, MeanOverPhrases):
    """1 - cos(q(i, c), q'(i, c)): the query of the caption read as one text, against that of its clauses read alone.

    q' is the same fusion's query of the same image and caption, with each clause encoded alone and the embeddings of
    the clauses added (`contextcir.encoders.clause_texts`). It is a constant, so that the whole caption is taught what
    its clauses give, and not the reverse. Captions of a single clause do not count.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
    """

    needs_clauses = True

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion that reads clauses alone already: both queries would be equal."""
        super().check(fusion)
        refuse_clause_reader(self, fusion)

    def values(self, reading: ConceptReading) -> Tensor:
        """Return the loss of each caption of two clauses or more, (F,)."""
        return values_of_captions(reading, captions_by_clause(reading))


class JoinedConsistency(ComposedLoss):
    """`ClauseConsistency` of the captions, and of pairs of them that are joined into longer captions.

    Two captions of one reference image become one, "A, B", which asks for both changes. It has no target, and needs
    none: its query as one text is compared with that of all clauses of both, each encoded alone. So texts of more
    clauses than those of the training set are trained on. A caption is in at most one pair of its batch; which two and
    how they are joined (`JOINTS`) follows from the words of the captions of that image in the batch. A caption without
    clauses is one by itself. The mean is over captions and joined captions.

    Batches have to keep the captions of an image together (`GroupedByReference`), else there are few pairs.

    Args:
        weight: the factor of this loss in the total, which the caller applies.
    """

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion that reads clauses alone already: both queries would be equal."""
        super().check(fusion)
        refuse_clause_reader(self, fusion)

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over captions and joined captions of all ranks, without the weight of the loss."""
        captions = captions_by_clause(reading)
        values = values_of_captions(reading, captions)
        pairs = join_pairs(captions, reading.image_of_rows(), reading.phrases.backbone.tokenizer)
        if pairs:
            student = compose(reading, [pair.text.whole() for pair in pairs])
            values = torch.cat([values, apart(student, compose_as_teacher(reading, [pair.text for pair in pairs]))])
        return mean_over_phrases(values)


class ClauseDistillation(ComposedLoss):
    """||t'(c) - T||^2 / ||T||^2 + r KL(p_T, p_t'), T = sum_k t(c_k): a student is taught what clauses give alone.

    t' is the student of `DistilledSum`, which reads the caption c as one text, and t(c_k) what the teacher, a constant
    here, gives for the clause c_k alone. p_T and p_t' are the softmax, over the images of the batch, of the cosines of
    the queries that the fusion composes with either, divided by the temperature: the student is to rank images alike
    (knowledge distillation, Hinton et al., 2015).

    Taught are the captions of a batch, and pairs of captions of one reference image joined into longer ones, whose
    clauses are those of both (`join_pairs`): so the student learns to read texts of more clauses than any caption has.
    The mean is over all of these texts. Batches have to keep the captions of an image together (`GroupedByReference`),
    else there are few pairs.

    Args:
        weight: the factor of this loss in the total. The student has no other loss, so it matters for clipping alone.
        ranking: r, the share of ranking images alike.
        temperature: that of the contrastive loss, or near it.

    Raises:
        InputError: if ``ranking`` is negative, or the temperature is outside of `TEMPERATURES`.
    """

    def __init__(self, weight: float = 1.0, ranking: float = 3.0, temperature: float = 0.03) -> None:
        super().__init__(weight)
        self.ranking = not_negative(ranking, "model.concept.ranking")
        self.temperature = between(temperature, *TEMPERATURES, "model.concept.temperature")

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion without a student."""
        if not isinstance(fusion, DistilledSum):
            raise InputError(
                f"ClauseDistillation teaches the second text tower of DistilledSum, and {type(fusion).__name__} has "
                "none: choose that fusion, or train without this loss (model.concept: null)",
                setting="model.concept",
            )

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean over captions and joined captions of all ranks, without the weight of the loss."""
        captions, backbone = captions_by_clause(reading), reading.phrases.backbone
        pairs = join_pairs(captions, reading.image_of_rows(), backbone.tokenizer)
        alone = self._teacher(reading)  # (B, E)
        rows = torch.tensor([(pair.text.row, pair.other) for pair in pairs]).reshape(-1, 2).long()
        rows = to_device(rows, alone.device)
        taught = torch.cat([alone, alone[rows].sum(dim=1)])  # (B + J, E)
        texts = [text.caption for text in captions] + [pair.text.caption for pair in pairs]
        fusion = cast(DistilledSum, reading.fusion)
        given = fusion.encode_by_student(backbone, texts).embedding  # (B + J, E)
        with torch.autocast(given.device.type, enabled=False):
            wide = torch.promote_types(given.dtype, torch.float32)
            given, taught = given.to(wide), taught.to(wide)
            image = reading.features.image.embedding.detach().to(wide)  # (B, E)
            error = (given - taught).square().sum(dim=-1) / taught.square().sum(dim=-1).clamp(min=1e-12)
            image = torch.cat([image, image[rows[:, 0]]])  # (B + J, E)
            candidates = normalised(reading.candidates())  # (U, E)
            ranks, aims = (
                (normalised(fusion.compose_as_constant(image, text)) @ candidates.T / self.temperature).log_softmax(-1)
                for text in (given, taught)
            )
            apart_by = (aims.exp() * (aims - ranks)).sum(dim=-1)  # (B + J,)
            return mean_over_phrases(error + self.ranking * apart_by)

    @staticmethod
    def _teacher(reading: ConceptReading) -> Tensor:
        """Return the embeddings (B, E) of captions by their clauses: in training, queries were composed of them."""
        if reading.fusion.training:
            return reading.features.text.embedding.detach()
        phrases = reading.phrases
        with torch.no_grad():
            return encode_by_clause(phrases.backbone, phrases.captions, reading.features.clauses).embedding


class Additivity(ComposedLoss, MeanOverPhrases):
    """1 - cos(q(i, c), q*), q* = q(i, "") + sum_k (q(i, c_k) - q(i, "")): changes asked for together add up.

    q(i, c) is the query of the whole caption c as the fusion reads it, q(i, c_k) that of its clause k as if it were all
    of the caption, and q(i, "") that of a caption without words; each of length 1. q* is a constant. The query of a
    blank caption is the zero from which changes are measured, not the image's own embedding: composed queries have a
    text's share even where it asks for nothing, and a sum of K differences to the image would subtract the image
    K - 1 times in full although each query contains only a part of it. Captions of a single clause do not count: for
    these q* is q(i, c).

    Args:
        weight: the factor of this loss in the total, which the caller applies.
    """

    needs_clauses = True

    def values(self, reading: ConceptReading) -> Tensor:
        """Return the loss of each caption of two clauses or more, (F,)."""
        counted = [text for text in captions_by_clause(reading) if len(text.clauses) > 1]
        images = reading.image_of_rows()
        numbers: dict[tuple[int, str, tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]], int] = {}
        texts: list[Excerpt] = []

        def number(text: Excerpt) -> int:
            """Number the different texts of an image: each is composed once."""
            key = (images[text.row], *text[1:])
            if key not in numbers:
                numbers[key] = len(texts)
                texts.append(text)
            return numbers[key]

        terms = [(owner, number(part)) for owner, text in enumerate(counted) for part in text.parts()]
        zeros = [number(text.blank()) for text in counted]
        alone = compose_as_teacher(reading, texts)  # (N, E)
        pairs = to_device(torch.tensor(terms, dtype=torch.long).reshape(-1, 2), alone.device)
        owner, which = pairs.unbind(1)  # (C,)
        zero = alone[to_device(torch.tensor(zeros, dtype=torch.long), alone.device)]  # (F, E)
        total = zero.index_add(0, owner, alone[which] - zero[owner])  # (F, E)
        return apart(student_of(reading, counted), normalised(total))


def refuse_clause_reader(loss: ConceptLoss, fusion: Fusion) -> None:
    """Raise InputError for a fusion that reads clauses."""
    if fusion.reads_clauses:
        raise InputError(
            f"{type(loss).__name__} teaches what clauses give alone, and {type(fusion).__name__} reads each alone "
            "already: choose another model.fusion, or train without this loss (model.concept: null)",
            setting="model.concept",
        )


def values_of_captions(reading: ConceptReading, captions: Sequence[Excerpt]) -> Tensor:
    """Return the `ClauseConsistency` of each caption of two clauses or more, (F,)."""
    counted = [text for text in captions if len(text.clauses) > 1]
    return apart(student_of(reading, counted), compose_as_teacher(reading, counted))


def student_of(reading: ConceptReading, captions: Sequence[Excerpt]) -> Tensor:
    """Return the queries (F, E) of captions as they were composed, L2-normalised, with their graph."""
    embedding = reading.features.fused.embedding
    rows = torch.tensor([text.row for text in captions], dtype=torch.long)
    return normalised(embedding[to_device(rows, embedding.device)])


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cosine of queries of length 1, (F, E) each -> (F,): exact also where they are nearly equal."""
    return (student - teacher).square().sum(dim=-1) / 2


def join_pairs(captions: Sequence[Excerpt], images: Sequence[int], tokenizer: Tokenizer) -> list[Joined]:
    """Return pairs of different captions of one image (B,), joined; without those that would be truncated."""
    by_image: dict[int, dict[str, Excerpt]] = defaultdict(dict)
    for text, image in sorted(zip(captions, images, strict=True), key=lambda pair: pair[0][1:]):
        if text.caption:
            by_image[image].setdefault(text.caption, text)
    pairs = []
    for group in by_image.values():
        ordered = sorted(group.values(), key=lambda text: (stable_hash(text.caption), text.caption))
        pairs += [Joined(joined(*pair), pair[1].row) for pair in zip(ordered[::2], ordered[1::2], strict=False)]
    return [pair for pair in pairs if _readable(pair.text.caption, tokenizer)]


def _readable(text: str, tokenizer: Tokenizer) -> bool:
    """Tell whether a text fits into the model, and has its clauses where they are: cleaning might move them."""
    return tokenizer.clean(text) == text and tokenizer([text]).ids.shape[1] < tokenizer.context_length


def joined(first: Excerpt, second: Excerpt) -> Excerpt:
    """Return "A, B" or the like, which of `JOINTS` depends on the words; clauses and phrases are those of both."""
    joint = JOINTS[stable_hash(f"{first.caption}\n{second.caption}") % len(JOINTS)]
    head = first.caption.rstrip(" .,;:!?") or first.caption
    shift = len(head) + len(joint)

    def both(ours: tuple[tuple[int, int], ...], theirs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        kept = [(start, min(end, len(head))) for start, end in ours if start < len(head)]
        return (*kept, *((start + shift, end + shift) for start, end in theirs))

    clauses = both(first.clauses or ((0, len(head)),), second.clauses or ((0, len(second.caption)),))
    return Excerpt(first.row, head + joint + second.caption, clauses, both(first.phrases, second.phrases))
