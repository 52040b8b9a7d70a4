"""The parser with a real, small model of Stanza's."""

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.phrases import stanza_models
from contextcir.phrases.constituency import ConstituencyParser
from contextcir.phrases.parser import clean
from contextcir.phrases.selection import HighestPhrases, LowestPhrases, Quota
from contextcir.phrases.stanza_models import PROCESSORS
from tests.encoders.test_text import naive_span_tokens
from tests.helpers import tiny
from tests.phrases.test_phrase_spans import CAPTIONS, TEXT

stanza = pytest.importorskip("stanza", reason="needs Stanza")
SOFA = "The dog is standing on a red sofa next to a small table, and the wall behind it is white."


@pytest.fixture(scope="module")
def models(shared: Path) -> str:
    if not (shared / "stanza_resources").is_dir():
        pytest.skip("needs Stanza's models in the folder `stanza_resources` of the recorded values")
    return str(shared / "stanza_resources")


@pytest.fixture(scope="module")
def parser(models: str) -> ConstituencyParser:
    return ConstituencyParser(model_dir=models)


@pytest.fixture(scope="module")
def cirr(shared: Path) -> list[str]:
    file = shared / "data" / "cirr" / "captions" / "cap.rc2.val.json"
    return [record["caption"] for record in json.loads(file.read_text())]


def phrases(parser: ConstituencyParser, caption: str) -> list[str]:
    return [clean(caption)[start:end] for start, end in parser.parse([caption])[0].phrases]


def test_phrases_of_the_published_example(parser, models):
    assert phrases(parser, SOFA) == ["the wall behind it", "a red sofa", "a small table", "the dog", "the wall"]
    lowest = ConstituencyParser(level=LowestPhrases(), model_dir=models)
    assert phrases(lowest, SOFA) == ["a red sofa", "a small table", "the dog", "the wall"]
    highest = ConstituencyParser(Quota(max_phrases=2), HighestPhrases(), models)
    assert phrases(highest, SOFA) == ["the wall behind it", "a red sofa"]


@pytest.mark.parametrize("caption", ["A red car near a tree", "a red car   near a tree.", "a red car near a tree\n"])
def test_a_caption_that_is_one_phrase_keeps_it(parser, caption):
    assert phrases(parser, caption) == ["a red car near a tree", "a red car", "a tree"]


def test_brackets_and_repeated_phrases_of_several_sentences_are_found_where_they_are(parser):
    caption = "Show a red car (with a big dog) near a red car. A red car [a big dog] is there."
    text, ((spans, _),) = clean(caption), parser.parse([caption])
    found = [text[start:end] for start, end in spans]
    assert {start for start, end in spans if text[start:end] == "a red car"} == {5, 37, 48}
    assert found.count("a big dog") == 2 and not any("lrb" in phrase.lower() for phrase in found)


def test_captions_without_phrases_have_none(parser):
    captions = ["", " \n", "it", "&#x81;", "is this it?"]
    assert [parse.phrases for parse in parser.parse(captions)] == [()] * 5
    assert [len(parse.clauses) for parse in parser.parse(captions)] == [0, 0, 1, 0, 1]  # no words in the fourth
    assert parser.parse([]) == []


@pytest.mark.slow
def test_captions_in_one_call_do_not_change_each_other(parser, cirr, monkeypatch):
    captions = [*random.Random(0).sample(cirr, 20), SOFA, "", *CAPTIONS]
    assert len(captions[-1].split()) == 500
    together = parser.parse(captions)
    assert [parser.parse([caption])[0] for caption in captions] == together
    monkeypatch.setattr("contextcir.phrases.constituency.BULK", 7)
    assert parser.parse([*captions, *captions][::-1])[::-1] == together * 2


@settings(max_examples=30, deadline=None)
@given(captions=st.lists(TEXT | st.sampled_from(CAPTIONS[:-1]), min_size=1, max_size=5))
def test_phrases_of_any_text_have_tokens(parser, captions):
    for caption, (spans, _) in zip(captions, parser.parse(captions), strict=True):
        assert len(set(spans)) == len(spans) <= 10
        for start, end in spans:
            assert 0 <= start < end <= len(clean(caption))
            assert any(naive_span_tokens(caption, start, end))


def test_phrases_of_real_captions_begin_and_end_with_a_token(parser, cirr):
    captions = cirr[:100]
    spans = [parse.phrases for parse in parser.parse(captions)]
    assert sum(map(bool, spans)) > 90
    for caption, found in zip(captions, spans, strict=True):
        for span in found:
            tokens = tiny.tokenizer().span_tokens([caption], torch.tensor([0]), torch.tensor([span]))[0]
            alone = tiny.tokenizer()([clean(caption)[slice(*span)]]).ids[0, 1:-1]
            assert torch.equal(tiny.tokenizer()([caption]).ids[0][tokens], alone)


def test_the_key_names_models_files_and_selection(parser, models, tmp_path):
    key = parser.key
    assert key.parser == "stanza" and stanza.__version__ in key.version
    assert all(f"{name}=" in key.model for name in PROCESSORS)
    assert ConstituencyParser(model_dir=models).key == key
    assert ConstituencyParser(level=LowestPhrases(), model_dir=models).key._replace(selection=key.selection) == key
    others = [ConstituencyParser(Quota(9), None, models), ConstituencyParser(Quota(10, 1), None, models)]
    assert len({key, *(other.key for other in others)}) == 3
    shutil.copytree(models, tmp_path / "models", copy_function=shutil.copyfile)
    vectors = next((tmp_path / "models" / "en" / "pretrain").iterdir())
    vectors.write_bytes(vectors.read_bytes() + b"x")
    listed = json.loads((tmp_path / "models" / "resources.json").read_text())
    listed["en"]["pretrain"][vectors.stem].pop("md5")  # models of one's own may come without checksums
    (tmp_path / "models" / "resources.json").write_text(json.dumps(listed))
    assert ConstituencyParser(model_dir=str(tmp_path / "models")).key.version != key.version


def test_a_pickled_parser_leaves_its_models_behind(parser):
    expected = parser.parse([SOFA])
    pickled = pickle.dumps(parser)
    assert len(pickled) < 2_000
    copy = pickle.loads(pickled)
    assert copy.key == parser.key and copy.parse([SOFA]) == expected


def test_the_environment_names_the_folder_of_the_models(parser, models, monkeypatch):
    monkeypatch.setenv("STANZA_RESOURCES_DIR", models)
    assert ConstituencyParser().key == parser.key


def test_missing_models_are_downloaded_once_and_said_so(parser, models, tmp_path, monkeypatch, capfd, caplog):
    asked = []

    def download(language: str, model_dir: str, package: str, processors: str) -> None:
        asked.append((language, package, processors))
        shutil.copytree(models, model_dir, copy_function=shutil.copyfile)

    monkeypatch.setattr(stanza, "download", download)
    monkeypatch.setattr(stanza_models, "unreachable", lambda _: None)
    there = ConstituencyParser(model_dir=str(tmp_path / "new"))
    with caplog.at_level("INFO"):
        assert there.key == parser.key and there.parse([SOFA]) == parser.parse([SOFA])
    assert asked == [("en", "default", "tokenize,mwt,pos,constituency")]
    said = caplog.text + capfd.readouterr().err
    assert said.count(f"downloading Stanza's English models (default) to {tmp_path / 'new'}, once") >= 1


def test_an_unknown_package_is_an_error_that_lists_the_known_ones(models):
    with pytest.raises(ValueError, match=r"no package 'best'.*default_fast.*\(parser\.package\)"):
        _ = ConstituencyParser(model_dir=models, package="best").key


def test_one_caption_that_is_not_in_a_list_is_an_error(parser):
    with pytest.raises(ValueError, match="put it in a list"):
        parser.parse(SOFA)
