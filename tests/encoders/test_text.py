import pickle
from functools import cache

import open_clip
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from contextcir.encoders.text import Tokenizer
from tests.helpers import tiny

START, END = 49406, 49407
CAPTIONS = [
    "the dog is standing on a red sofa next to a small table",
    "Replace the brown café chair with 2 blue stools; it's   nicer",
    "",
    "  \n ",
    "!( !! is not padding",
    "猫を黒い犬に変える &amp; <b>bold</b> 🐈‍⬛",
    "красный диван",
]


@cache
def open_clip_tokenizer() -> SimpleTokenizer:
    return open_clip.get_tokenizer("ViT-B-32")


def spans_of(caption: str, *phrases: str) -> torch.Tensor:
    cleaned = tiny.tokenizer().clean(caption)
    starts = [cleaned.index(phrase) for phrase in phrases]
    return torch.tensor([[start, start + len(phrase)] for start, phrase in zip(starts, phrases, strict=True)])


def naive_span_tokens(caption: str, start: int, end: int) -> list[bool]:
    """By spending the bytes of the text, spaces left out, on the tokens one after another."""
    tokenizer, reference = tiny.tokenizer(), open_clip_tokenizer()
    character_of_byte = []
    for index, character in enumerate(tokenizer.clean(caption)):
        if not character.isspace():
            character_of_byte += [index] * len(character.encode())
    overlaps, spent = [False], 0
    for token in reference.encode(caption):
        length = len(reference.decoder[token].removesuffix("</w>"))
        overlaps.append(any(start <= index < end for index in character_of_byte[spent : spent + length]))
        spent += length
    assert spent == len(character_of_byte)
    return [*overlaps, False]


def test_ids_are_those_of_open_clip_up_to_the_longest_caption():
    tokens = tiny.tokenizer()(CAPTIONS)
    expected = open_clip_tokenizer()(CAPTIONS)
    longest = int((expected == END).nonzero()[:, 1].max()) + 1
    assert torch.equal(tokens.ids, expected[:, :longest])
    for row, caption in enumerate(CAPTIONS):
        assert tokens.valid[row].sum() == len(open_clip_tokenizer().encode(caption)) + 2
        assert tokens.ids[row][tokens.valid[row]][-1] == END


def test_the_token_with_the_id_of_padding_is_valid():
    tokens = tiny.tokenizer()(["!(", "a b c d"])
    assert tokens.ids[0, 1] == 0
    assert tokens.valid[0].tolist() == [True, True, True, True, False, False]


def test_blank_captions_are_start_and_end():
    tokens = tiny.tokenizer()(["", " \t\n"])
    assert tokens.ids.tolist() == [[START, END], [START, END]]
    assert tokens.valid.all()


def test_no_captions_give_no_rows():
    tokens = tiny.tokenizer()([])
    assert tokens.ids.shape == tokens.valid.shape == (0, 2)


def test_long_captions_are_cut_with_the_end_last_and_lost_phrases_have_no_tokens():
    caption = "the red sofa " + "and then " * 60 + "a striped rug"
    tokens = tiny.tokenizer()([caption])
    assert tokens.ids.shape == (1, 77)
    assert tokens.ids[0, -1] == END and tokens.valid.all()
    mask = tiny.tokenizer().span_tokens(
        [caption], torch.zeros(2).long(), spans_of(caption, "red sofa", "a striped rug")
    )
    assert mask.shape == (2, 77)
    assert mask[0].nonzero().flatten().tolist() == [2, 3]
    assert not mask[1].any()


def test_a_caption_that_spells_the_end_token_ends_there():
    tokens = tiny.tokenizer()(["a dog <end_of_text> a cat"])
    assert tokens.ids.tolist() == tiny.tokenizer()(["a dog"]).ids.tolist()


@pytest.mark.parametrize("phrase", ["the dog", "the dog bowl", "dog", "remove the dog, add", "bowl"])
def test_the_tokens_of_a_phrase_spell_it(phrase):
    caption = "Remove the DOG,  add the cat and the dog bowl"
    tokenizer = tiny.tokenizer()
    mask = tokenizer.span_tokens([caption], torch.tensor([0]), spans_of(caption, phrase))
    spelled = open_clip_tokenizer().decode(tokenizer([caption]).ids[0][mask[0]].tolist())
    assert spelled.replace(" ,", ",").strip() == phrase


def test_a_repeated_phrase_is_the_one_that_its_span_points_to():
    caption = "a cat and a cat"
    mask = tiny.tokenizer().span_tokens([caption], torch.tensor([0, 0]), torch.tensor([[0, 5], [10, 15]]))
    assert [row.nonzero().flatten().tolist() for row in mask] == [[1, 2], [4, 5]]


def test_phrases_find_the_caption_of_their_owner():
    captions = ["zoom out", "a red umbrella instead"]
    owner, spans = torch.tensor([1, 0, 1]), torch.tensor([[2, 5], [0, 4], [0, 14]])
    mask = tiny.tokenizer().span_tokens(captions, owner, spans)
    assert mask.shape == (3, tiny.tokenizer()(captions).ids.shape[1])
    assert [row.nonzero().flatten().tolist() for row in mask] == [[2], [1], [1, 2, 3]]
    assert tiny.tokenizer().isolated(captions, owner, spans) == ["red", "zoom", "a red umbrella"]


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=24), st.data())
def test_tokens_overlap_exactly_the_characters_of_the_span(caption, data):
    cleaned = tiny.tokenizer().clean(caption)
    assume(cleaned)
    start = data.draw(st.integers(0, len(cleaned) - 1))
    end = data.draw(st.integers(start + 1, len(cleaned)))
    mask = tiny.tokenizer().span_tokens([caption], torch.tensor([0]), torch.tensor([[start, end]]))
    expected = naive_span_tokens(caption, start, end)
    if len(expected) <= 77:
        assert mask[0].tolist() == expected
    else:
        assert mask[0].tolist() == [*expected[:76], False]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from(["naïve", "🐈‍⬛", "İ", "a", "2", "!(", "ſ", "e\u0301", "\U0001f469\U0001f3fd"]), min_size=1
    )
)
def test_every_character_but_spaces_belongs_to_a_token(words):
    cleaned = tiny.tokenizer().clean(" ".join(words))
    letters = [index for index, letter in enumerate(cleaned) if not letter.isspace()][:20]
    spans = torch.tensor([[index, index + 1] for index in letters])
    assert tiny.tokenizer().span_tokens([cleaned], torch.zeros(len(letters)).long(), spans).any(dim=1).all()


@pytest.mark.parametrize("span", [(0, 9), (-1, 3), (4, 4), (5, 2), (8, 9)])
def test_a_span_outside_its_caption_is_an_error_that_names_both(span):
    for call in (tiny.tokenizer().span_tokens, tiny.tokenizer().isolated):
        with pytest.raises(ValueError, match=rf"\[{span[0]}, {span[1]}\).*'Zoom  out'"):
            call(["Zoom  out"], torch.tensor([0]), torch.tensor([span]))


def test_content_leaves_out_start_end_and_padding():
    tokens = tiny.tokenizer()(["a red dog", "a", ""])
    assert Tokenizer.content(tokens).int().tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_a_single_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(ValueError, match="'zoom out'"):
        tiny.tokenizer()("zoom out")


def test_captions_are_encoded_once():
    tokenizer = Tokenizer("ViT-B-32")
    tokenizer(["a dog", "a cat", "a dog"])
    tokenizer.span_tokens(["a dog"], torch.tensor([0]), torch.tensor([[2, 5]]))
    assert tokenizer._encode.cache_info().misses == 2


def test_it_survives_pickling():
    copy = pickle.loads(pickle.dumps(tiny.tokenizer()))
    assert torch.equal(copy(CAPTIONS).ids, tiny.tokenizer()(CAPTIONS).ids)


@pytest.mark.parametrize("model", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_other_kinds_of_tokenizer_are_refused(model):
    with pytest.raises(ValueError, match=f"'{model}' has no CLIP byte-pair tokenizer"):
        Tokenizer(model)


def test_an_unknown_model_is_refused_with_close_matches():
    with pytest.raises(ValueError, match="no model 'ViT-B/32'.*ViT-B-32"):
        Tokenizer("ViT-B/32")
