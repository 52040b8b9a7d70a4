"""A bank gives back what was put into it, to any process, and tells what is wrong with a file in one line."""

import multiprocessing
import pickle
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from contextcir.phrases import bank as bank_module
from contextcir.phrases.bank import About, PhraseBank, byte_order, write_bank
from contextcir.phrases.parser import Parse, ParserKey, Span
from contextcir.phrases.sources import BankPhrases, BankThenParser, ParsedPhrases, PhraseSource
from experiments.phrases.captions import instantiated
from tests.helpers.word_parser import WordParser

PARSER = WordParser()
CAPTIONS = ["a dog on the sofa", "", "2 cats?", "no phrase", "The Dog\tsits", "café «a été» ﬁ 👩‍👧 the end"]
ABOUT = About(PARSER.key, "--parser=tests.helpers.word_parser.WordParser", 0)


def make_bank(path: Path, captions: list[str] = CAPTIONS, about: About = ABOUT) -> Path:
    ordered = sorted(captions, key=byte_order)
    write_bank(path, zip(ordered, PARSER.parse(ordered), strict=True), about)
    return path


def test_a_bank_gives_back_every_caption(tmp_path: Path) -> None:
    bank = PhraseBank(make_bank(tmp_path / "a?b#c%20 bank"), PARSER.key)
    assert bank.about == ABOUT._replace(captions=len(CAPTIONS)) and len(bank) == len(CAPTIONS)
    for caption, parse in zip(CAPTIONS, PARSER.parse(CAPTIONS), strict=True):
        assert caption in bank and bank.parse(caption) == parse
        for found, expected in zip((bank.phrases(caption), bank.clauses(caption)), parse, strict=True):
            assert found == expected and all(type(span) is Span for span in found)
    assert [caption for caption, _ in bank.rows()] == sorted(CAPTIONS, key=str.encode)
    assert "the dog sits" not in bank  # though the tokenizer cleans "The Dog\tsits" to this
    assert [path.name for path in tmp_path.iterdir()] == ["a?b#c%20 bank"]  # no second file


texts = st.text(st.characters() | st.sampled_from("\ud800\udfff\x00é\n'\""), max_size=8)
spans = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=4)


@given(st.dictionaries(texts, st.tuples(spans, spans), max_size=8))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, tuple]) -> None:
    path = tmp_path_factory.mktemp("bank") / "bank"
    parses = {text: Parse(*(tuple(Span(*span) for span in kind) for kind in kinds)) for text, kinds in content.items()}
    rows = [(caption, parses[caption]) for caption in sorted(content, key=byte_order)]
    assert write_bank(path, rows, ABOUT).captions == len(content)
    assert list(PhraseBank(path).rows()) == rows
    for caption, found in rows:
        assert PhraseBank(path).parse(caption) == found


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    many = [f"the dog {number} and a cat" for number in range(500)]
    assert make_bank(tmp_path / "a", many).read_bytes() == make_bank(tmp_path / "b", many[::-1]).read_bytes()


def test_a_caption_that_is_missing_is_told_with_the_command_that_adds_it(tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    command = f"`python -m experiments.phrases --captions FILE {ABOUT.arguments} --out {path}`"
    with pytest.raises(ValueError) as error:
        PhraseBank(path).phrases("a cat")
    assert str(error.value).endswith(command) and "'a cat'" in str(error.value)


def _ask(bank: PhraseBank, queue: multiprocessing.Queue) -> None:
    queue.put([bank.parse(caption) for caption in CAPTIONS])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_an_open_bank(method: str, tmp_path: Path) -> None:
    bank = PhraseBank(make_bank(tmp_path / "bank"))
    assert bank.phrases("2 cats?") == (Span(0, 6),)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=_ask, args=(bank, queue)) for _ in range(2 if method == "fork" else 1)]
    for process in processes:
        process.start()
    for process in processes:
        assert queue.get(timeout=120) == PARSER.parse(CAPTIONS)
        process.join()
        assert process.exitcode == 0
    assert bank.phrases("2 cats?") == (Span(0, 6),)


def test_threads_read_a_bank_that_another_opened(tmp_path: Path) -> None:
    bank, found = PhraseBank(make_bank(tmp_path / "bank")), []
    assert len(bank) == len(CAPTIONS)
    thread = threading.Thread(target=lambda: found.extend(bank.parse(caption) for caption in CAPTIONS))
    thread.start()
    thread.join()
    assert found == PARSER.parse(CAPTIONS)


def test_a_pickled_bank_is_its_path(tmp_path: Path) -> None:
    bank = PhraseBank(make_bank(tmp_path / "bank", [f"the {number}" for number in range(3000)]))
    assert len(bank) == 3000
    pickled = pickle.dumps(bank)
    assert len(pickled) < 500 and pickle.loads(pickled).phrases("the 7") == (Span(0, 5),)


def test_a_bank_of_another_parser_is_refused_naming_both(tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    for source in (BankPhrases(path, WordParser(2).key), BankThenParser(path, WordParser(2))):
        with pytest.raises(ValueError, match="the first 9', but expected is 'the first 2'"):
            source.missing(["a dog"])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _cut_within_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _overwrite(path: Path) -> None:
    path.write_text("no bank at all\n" * 1000)


def _other_database(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE phrases (caption, spans)").connection.close()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_span(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"a dog on the sofa") + len("a dog on the sofa") + 4] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _cut_within_a_page, _overwrite, _other_database, _empty, _flip_a_span])
def test_a_damaged_file_is_told_in_one_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    damage(path)
    with pytest.raises(ValueError) as error:
        PhraseBank(path).phrases("a dog on the sofa")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "make it again" in str(error.value)


def test_a_missing_file_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no phrase bank .*none: make it with `python -m experiments\.phrases"):
        PhraseBank(tmp_path / "none").phrases("a dog")


def as_before_clauses(path: Path) -> Path:
    """A bank in the format that was written before there were clauses."""
    with sqlite3.connect(path) as bank:
        bank.execute("ALTER TABLE phrases DROP COLUMN clauses")
        bank.execute("UPDATE about SET told = json_remove(told, '$.clause_rules')")
        bank.execute("PRAGMA user_version = 1")
    bank.close()
    return path


def test_a_bank_from_before_clauses_gives_its_phrases_and_says_what_it_lacks(tmp_path: Path) -> None:
    source = BankPhrases(as_before_clauses(make_bank(tmp_path / "bank")))
    assert source.find(CAPTIONS) == [Parse(parse.phrases) for parse in PARSER.parse(CAPTIONS)]
    assert dict(source.bank.rows())["2 cats?"] == Parse((Span(0, 6),))
    for ask in (lambda: source.bank.clauses("2 cats?"), source.check_clauses):
        with pytest.raises(ValueError, match=r"has no clauses; make it again with `python -m experiments\.phrases`"):
            ask()


def test_clauses_by_other_rules_are_refused(tmp_path: Path) -> None:
    bank = PhraseBank(make_bank(tmp_path / "bank", about=ABOUT._replace(clause_rules=0)))
    assert bank.phrases("2 cats?") == (Span(0, 6),)
    with pytest.raises(ValueError, match="clauses by rules 0 instead of"):
        bank.check_clauses()


def test_a_bank_of_another_cleaning_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_bank(tmp_path / "bank")
    monkeypatch.setattr(bank_module, "clean", str.lower)
    with pytest.raises(ValueError, match="cleans texts in another way"):
        PhraseBank(path).phrases("a dog on the sofa")


def test_what_can_not_be_written_leaves_the_old_bank(tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="can't be written"):
        write_bank(path, [("a dog", Parse()), ("a dog", Parse())], ABOUT)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_config_names_a_source_with_its_key_or_its_parser() -> None:
    reader = ArgumentParser()
    reader.add_argument("--phrases", type=PhraseSource)
    keyed = {"class_path": "BankPhrases", "init_args": {"path": "bank", "key": PARSER.key._asdict()}}
    named = {"class_path": "tests.helpers.word_parser.WordParser", "init_args": {"most": 3}}
    both = {"class_path": "BankThenParser", "init_args": {"path": "bank", "parser": named}}
    sources = [instantiated(reader, reader.parse_object({"phrases": choice})).phrases for choice in (keyed, both)]
    assert sources[0].bank.key == PARSER.key and sources[1].parser.most == 3


@pytest.mark.parametrize("kind", ["bank", "parser", "both"])
def test_sources_agree_on_what_they_know(kind: str, tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    made: dict[str, PhraseSource] = {
        "bank": BankPhrases(path, ParserKey(*PARSER.key)),
        "parser": ParsedPhrases(PARSER),
        "both": BankThenParser(path, PARSER),
    }
    source = pickle.loads(pickle.dumps(made[kind]))
    assert source.find(CAPTIONS) == PARSER.parse(CAPTIONS)
    assert source.find([]) == []
    asked = ["the new one", CAPTIONS[0], "the new one"]
    assert source.missing(asked) == (["the new one"] * 2 if kind == "bank" else [])
    WordParser.batches.clear()
    if kind == "bank":
        with pytest.raises(ValueError, match="'the new one' is not in the phrase bank"):
            source.find(asked)
    else:
        assert source.find(asked) == PARSER.parse(asked)
        assert WordParser.batches[0] == (["the new one"] if kind == "both" else asked)
