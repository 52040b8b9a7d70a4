"""Captions that are encoded clause by clause, against clauses encoded one at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.batch import Clauses
from contextcir.encoders.clause_texts import encode_by_clause
from tests.helpers import tiny

BACKBONE = tiny.backbone().double().eval()
CAPTIONS = ["make the dog bigger, and add a red ball.", "without the cat", " ", "the dog, the dog"]
SPANS = [[(0, 19), (25, 39)], [], [], [(0, 7), (9, 16)]]


def clauses_of(spans: list[list[tuple[int, int]]]) -> Clauses:
    rows = [(row, start, end) for row, caption in enumerate(spans) for start, end in caption]
    places = torch.tensor(rows, dtype=torch.long).reshape(-1, 3)
    return Clauses(places[:, 0], places[:, 1:])


def alone(text: str):
    return BACKBONE.encode_text(tiny.tokenizer()([text]))


def by_clause(captions: list[str], spans: list[list[tuple[int, int]]]):
    with torch.no_grad():
        return encode_by_clause(BACKBONE, captions, clauses_of(spans))


@torch.no_grad()
def test_the_embedding_is_the_sum_of_those_of_the_clauses_alone() -> None:
    features = by_clause(CAPTIONS, SPANS)
    expected = alone("make the dog bigger").embedding + alone("add a red ball").embedding
    torch.testing.assert_close(features.embedding[:1], expected)
    torch.testing.assert_close(features.embedding[1:2], alone("without the cat").embedding)
    torch.testing.assert_close(features.embedding[3:], 2 * alone("the dog").embedding)


@torch.no_grad()
def test_tokens_are_those_of_the_clause_alone_and_tokens_between_clauses_are_not_valid() -> None:
    features = by_clause(CAPTIONS, SPANS)
    first, second = alone("make the dog bigger").tokens[0], alone("add a red ball").tokens[0]
    assert features.valid[0].tolist() == [True] * 5 + [False] * 2 + [True] * 4 + [False, True]  # ", and", "."
    torch.testing.assert_close(features.tokens[0, :5], first[:5])
    torch.testing.assert_close(features.tokens[0, 7:11], second[1:5])
    torch.testing.assert_close(features.tokens[0, 12], (first[5] + second[5]) / 2)
    assert features.valid.sum(dim=1).tolist()[1:] == [5, 2, 6]


@torch.no_grad()
@pytest.mark.parametrize("given", [None, clauses_of([[]] * 4), clauses_of([[(0, 40)], [(0, 15)], [], [(0, 16)]])])
def test_a_caption_of_one_clause_has_the_features_of_the_whole_caption(given: Clauses | None) -> None:
    expected = BACKBONE.encode_text(tiny.tokenizer()(CAPTIONS))
    found = encode_by_clause(BACKBONE, CAPTIONS, given)
    assert torch.equal(found.valid, expected.valid)
    torch.testing.assert_close(found.embedding, expected.embedding)
    torch.testing.assert_close(found.tokens[found.valid], expected.tokens[found.valid])


@torch.no_grad()
def test_of_a_clause_beyond_the_end_of_a_cut_caption_the_embedding_is_read() -> None:
    caption = "very " * 80 + "red. add a dog"
    features = by_clause([caption], [[(0, 403), (405, 414)]])
    expected = alone("very " * 80 + "red").embedding + alone("add a dog").embedding
    torch.testing.assert_close(features.embedding, expected)
    assert features.valid.all() and features.tokens.shape[1] == 77


@pytest.mark.parametrize("span", [(3, 3), (0, 99), (-1, 2)])
def test_a_clause_that_is_not_in_its_caption_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not inside the caption"):
        by_clause(["a dog"], [[span]])


def test_every_clause_gets_a_gradient() -> None:
    backbone = tiny.backbone()
    features = encode_by_clause(backbone, CAPTIONS, clauses_of(SPANS))
    backbone.zero_grad()
    (features.embedding.sum() + features.tokens.sum()).backward()
    rows = backbone.clip.token_embedding.weight.grad.abs().sum(dim=1)
    spoken = {word: tiny.tokenizer()([word]).ids[0, 1].item() for word in ("bigger", "ball", "cat", "and")}
    assert {word: bool(rows[token] > 0) for word, token in spoken.items()} == {
        "bigger": True, "ball": True, "cat": True, "and": False
    }  # fmt: skip


words = st.lists(st.sampled_from(["dog", "a", "red", "unbelievable", "x-ray", "42"]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=4), st.randoms())
def test_any_clauses_in_any_order_are_read_as_one_by_one(drawn: list, random) -> None:
    captions, spans = [], []
    for clauses in drawn:
        text, places = "", []
        for words_of_clause in clauses:
            text += " and " if text else ""
            places.append((len(text), len(text) + len(" ".join(words_of_clause))))
            text += " ".join(words_of_clause)
        random.shuffle(places)
        captions.append(text)
        spans.append(places)
    found = by_clause(captions, spans)
    for row, (caption, places) in enumerate(zip(captions, spans, strict=True)):
        parts = [alone(caption[start:end]) for start, end in sorted(places)]
        torch.testing.assert_close(found.embedding[row], sum(part.embedding[0].detach() for part in parts))
        content = torch.cat([part.tokens[0, 1:-1].detach() for part in parts])
        torch.testing.assert_close(found.tokens[row][found.valid[row]][1:-1], content)
