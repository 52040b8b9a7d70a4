"""Noun phrases as texts of their own: encoded once each, with the tokens they have in their captions."""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from contextcir.batch import phrases_of
from contextcir.encoders.features import TokenBatch
from contextcir.encoders.phrase_texts import PhraseTexts
from tests.helpers import tiny

CAPTIONS = ["the dog beside the dog, and a red ball", "no phrase here", "the dog, a hat", ""]
SPANS = [[(0, 7), (28, 38), (15, 22)], [], [(9, 14), (0, 7)], []]  # dog, ball, dog; hat, dog
WORDINGS = [["the dog", "a red ball"], [], ["a hat", "the dog"], []]  # of each caption, in order


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone().double()


def texts_of(backbone, captions=CAPTIONS, spans=SPANS) -> PhraseTexts:
    return PhraseTexts(backbone, captions, phrases_of(spans))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["dog", "sunflowers", "it's", "40%", "café", "(red", "!", "Über", "🙂", "a", "＆", " "])),
    st.data(),
)
@example(["🙂🙂"], None)
def test_phrases_have_the_ids_that_they_have_as_texts(words, data):
    tokenizer, caption = tiny.tokenizer(), " ".join(words)
    text = tokenizer.clean(caption)
    ends = [(start, end) for end in range(len(text) + 1) for start in range(end)]
    assume(ends)
    spans = ends if data is None else data.draw(st.lists(st.sampled_from(ends), min_size=1, max_size=4))
    spans = [span for span in spans if tokenizer.clean(text[slice(*span)]) == text[slice(*span)]]  # else cut elsewhere
    owner = torch.zeros(len(spans), dtype=torch.long)
    places = torch.tensor(spans, dtype=torch.long).reshape(-1, 2)
    found = tokenizer.encode_isolated([caption], owner, places)
    expected = tokenizer(tokenizer.isolated([caption], owner, places))
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.valid, expected.valid)


def test_whole_words_are_not_tokenized_again(monkeypatch):
    tokenizer, captions = tiny.tokenizer(), ["purple zebras beside one lonely walrus"]
    tokenizer(captions)
    monkeypatch.setattr(tokenizer._bpe, "bpe", None)
    owner, spans, _ = phrases_of([[(0, 13), (21, 38), (21, 31)]])
    assert tokenizer.encode_isolated(captions, owner, spans).valid.sum(1).tolist() == [5, 6, 4]


def test_phrases_of_long_captions_are_whole_even_where_the_caption_was_cut():
    caption = "dog " * 80 + "red hat"
    phrases = phrases_of([[(316, 327)]])  # "dog red hat", behind what the tower sees
    batch = tiny.tokenizer().encode_isolated([caption], phrases.owner, phrases.spans)
    assert torch.equal(batch.ids, tiny.tokenizer()(["dog red hat"]).ids)


def test_spans_outside_of_their_caption_are_an_error(backbone):
    with pytest.raises(ValueError, match=r"\[0, 99\) is not inside the caption 'a dog'"):
        texts_of(backbone, ["a dog"], [[(0, 99)]]).features()
    with pytest.raises(ValueError, match=r"\[0, 99\) is not inside the caption 'a dog'"):
        tiny.tokenizer().encode_isolated(["a dog"], torch.tensor([0]), torch.tensor([[0, 99]]))


def test_every_wording_is_encoded_once_and_no_longer_than_it_is(backbone, monkeypatch):
    seen = []

    def encode(batch: TokenBatch, known=backbone.encode_text):
        seen.append(tuple(batch.ids.shape))
        return known(batch)

    monkeypatch.setattr(backbone, "encode_text", encode)
    texts = texts_of(backbone)
    assert len(texts) == 5 and seen == []
    texts.features(), texts.concept_tokens(), texts.detached()
    assert seen == [(3, 5)]  # three wordings, the longest of three words
    assert texts.texts == ["the dog", "a red ball", "a hat"]
    assert texts.row.tolist() == [0, 1, 0, 2, 0]
    assert texts.content.int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 0, 0]]


def test_what_a_caption_says_twice_has_one_slot(backbone):
    texts = texts_of(backbone)
    assert texts.owner.tolist() == [0, 0, 0, 2, 2]
    assert texts.slot.tolist() == [0, 1, 0, 0, 1]


def test_a_concept_token_is_the_mean_of_a_phrase_read_alone(backbone):
    tokens, valid = texts_of(backbone).concept_tokens()
    assert valid.int().tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]
    for row, wordings in enumerate(WORDINGS):
        for slot, text in enumerate(wordings):
            alone = backbone.encode_text(tiny.tokenizer()([text])).tokens[0, 1:-1]
            torch.testing.assert_close(tokens[row, slot], sum(alone) / len(alone))
    assert (tokens[~valid] == 0).all()


def test_gradients_of_a_wording_add_up_over_its_concepts(backbone):
    def gradient(texts: PhraseTexts, rows: list[int]) -> torch.Tensor:
        return torch.autograd.grad(texts.concept_tokens().tokens[rows, -1].pow(2).sum(), weight)[0]

    weight = backbone.clip.ln_final.weight
    once = gradient(texts_of(backbone, ["the dog"], [[(0, 7)]]), [0])
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(
        gradient(texts_of(backbone, ["the dog"] * 3, [[(0, 7), (0, 7)]] * 3), [0, 1, 2]), 3 * once
    )


def test_phrases_without_tokens_are_no_concepts(backbone):
    texts = texts_of(backbone, ["a dog", "a cat"], [[(1, 2), (0, 5)], [(0, 5)]])  # the first is a space
    tokens, valid = texts.concept_tokens()
    assert valid.int().tolist() == [[0, 1], [1, 0]] and texts.tokens.any(1).tolist() == [False, True, True]
    assert tokens.isfinite().all()


@pytest.mark.parametrize("captions", [["a dog", "a cat"], []])
def test_no_phrases_are_no_concepts(backbone, captions):
    texts = texts_of(backbone, captions, [[] for _ in captions])
    tokens, valid = texts.concept_tokens()
    assert tokens.shape == (len(captions), 0, 32) and valid.shape == (len(captions), 0) and texts.texts == []


def test_a_teacher_keeps_no_graph_and_a_student_gets_one(backbone):
    texts = texts_of(backbone)
    assert not texts.detached().tokens.requires_grad
    assert texts.features().tokens.grad_fn is not None
    assert texts.detached().tokens.data_ptr() == texts.features().tokens.data_ptr()
