"""Edits in company: the same edit asked for alone, with one other, and with three others in the text.

Drawn by the generator of the scenes benchmark, from a stream of its own: no split holds these references.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_modules.scenes.edits import Edit
from data_modules.scenes.graph import Scene, pick, random_scene
from data_modules.scenes.groups import apply, random_edit
from data_modules.scenes.wording import Caption, join_clauses

STREAM = 13  # keeps these references apart from those of the benchmark and of training
SIZES = (1, 2, 4)  # edits in the text
KINDS = ("wrong value", "wrong object")
TRIES = 20
Span = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """One edit in a text: is the target closer to the query than the pictures in which only this edit is wrong?

    Args:
        size: Edits in the text, this one among them.
        caption: The text.
        clauses: Characters ``[start, end)`` of each clause of it, in order; a clause asks for one edit.
        phrases: Characters of its noun phrases.
        target: All edits done.
        wrong: The same with this edit wrong, by kind.
    """

    size: int
    caption: str
    clauses: tuple[Span, ...]
    phrases: tuple[Span, ...]
    target: Scene
    wrong: dict[str, Scene]


@dataclass(frozen=True)
class Asked:
    """A reference and all questions on it."""

    reference: Scene
    questions: tuple[Question, ...]


def draw_asked(seed: int, number: int) -> Asked:
    """Draw a reference, four edits of different things, and a question for each of them in each size of text.

    A wrong outcome is the same one in all sizes, as are the words of an edit; what can't be asked in one of them (the
    edit of an addition has no other object, a scene might hold two objects that look alike) is asked in none.
    """
    rng = np.random.default_rng([seed, STREAM, number])
    while True:
        scene = random_scene(rng)
        edits = _draw_edits(rng, scene)
        if edits is not None:
            break
    words = {edit: _said(rng, scene, edit) for edit in edits}
    questions: list[Question] = []
    for edit in edits:
        others = [other for other in edits if other is not edit]
        companies = {size: _chosen(rng, others, size - 1) for size in SIZES}
        wrong = _wrong_edits(rng, scene, edit, edits, tuple(companies.values()))
        if wrong:
            questions += [_question(rng, scene, words, edit, companies[size], wrong) for size in SIZES]
    return Asked(scene, tuple(questions))


def _draw_edits(rng: np.random.Generator, scene: Scene) -> tuple[Edit, ...] | None:
    """Draw edits of different things, any choice of which makes a valid scene, and leave one object alone."""
    edits: list[Edit] = []
    for _ in range(8 * max(SIZES)):
        edit = random_edit(rng, scene, {each.key for each in edits}, vague=0.0)
        if edit is not None:
            edits.append(edit)
        if len(edits) == max(SIZES):
            idle = {item.key for item in scene.objects} - {each.key for each in edits}
            return tuple(edits) if idle and apply(scene, tuple(edits)).valid() else None
    return None


def _said(rng: np.random.Generator, scene: Scene, edit: Edit) -> Caption:
    caption = Caption()
    edit.say(rng, scene, caption)
    return caption


def _chosen(rng: np.random.Generator, others: Sequence[Edit], count: int) -> tuple[Edit, ...]:
    return tuple(others[i] for i in sorted(rng.permutation(len(others))[:count]))


def _wrong_edits(
    rng: np.random.Generator, scene: Scene, edit: Edit, edits: Sequence[Edit], companies: Sequence[tuple[Edit, ...]]
) -> dict[str, Edit]:
    """Return by kind a wrong outcome of an edit that shows, in valid scenes, in any of the companies."""
    if not all(apply(scene, (*company, edit)).valid() for company in companies):
        return {}
    idle = [item.key for item in scene.objects if item.key not in {each.key for each in edits}]
    found: dict[str, Edit] = {}
    for kind in KINDS:
        for _ in range(TRIES):
            wrong = edit.wrong_value(rng, scene) if kind == KINDS[0] else edit.onto(rng, pick(rng, idle))
            if wrong is not None and all(_shows(scene, company, edit, wrong) for company in companies):
                found[kind] = wrong
                break
    return found


def _shows(scene: Scene, company: tuple[Edit, ...], edit: Edit, wrong: Edit) -> bool:
    """Tell whether a wrong edit makes a valid scene that is neither the target nor the scene without it."""
    changed = apply(scene, (*company, wrong))
    others = {apply(scene, how).seen_as for how in ((*company, edit), company)}
    return changed.valid() and changed.seen_as not in others


def _question(
    rng: np.random.Generator,
    scene: Scene,
    words: dict[Edit, Caption],
    edit: Edit,
    company: tuple[Edit, ...],
    wrong: dict[str, Edit],
) -> Question:
    edits = (edit, *company)
    clauses: list[Span] = []
    phrases: list[Span] = []

    def say(caption: Caption, said: Caption) -> None:
        start = len(caption.text)
        caption.text += said.text
        clauses.append((start, len(caption.text)))
        phrases.extend((start + phrase.start, start + phrase.end) for phrase in said.phrases)

    order = [edits[i] for i in rng.permutation(len(edits))]
    text = join_clauses(rng, [lambda caption, said=words[each]: say(caption, said) for each in order]).text
    scenes = {kind: apply(scene, (*company, other)) for kind, other in wrong.items()}
    target = apply(scene, edits)
    return Question(len(edits), text, tuple(clauses), tuple(phrases), target, scenes)
