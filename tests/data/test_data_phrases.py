"""Records without phrases get them from a bank; the command reads from files what data modules give to the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from contextcir.phrases.bank import About, PhraseBank, byte_order, write_bank
from contextcir.phrases.sources import BankPhrases, BankThenParser, ParsedPhrases
from data_modules import CIRCO, CIRR, FashionIQ, GeneCIS, LaSCo, Manifest, Scenes
from data_modules.base import CompositionDataModule
from data_modules.circo import QueryText
from data_modules.fashioniq import CaptionText
from data_modules.scenes.writer import Size, write_scenes
from experiments.convert import main as convert
from experiments.phrases.__main__ import main as phrases_command
from experiments.phrases.captions import captions_of, read_captions
from tests.helpers.make_convertible import make_hotel, make_rewritten
from tests.helpers.make_data import edited, make_circo, make_cirr, preprocess
from tests.helpers.make_fashioniq import make_fashioniq
from tests.helpers.make_genecis import make_genecis
from tests.helpers.make_lasco import make_lasco
from tests.helpers.make_mixture import make_sets, mixture
from tests.helpers.word_parser import WordParser

PARSER = WordParser()


def bank_of(path: Path, captions: list[str]) -> Path:
    ordered = sorted(set(captions), key=byte_order)
    write_bank(path, zip(ordered, PARSER.parse(ordered), strict=True), About(PARSER.key, "--parser=words", 0))
    return path


def captions_file(root: Path, split: str = "train") -> Path:
    return root / "captions" / f"cap.rc2.{split}.json"


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    root = make_cirr(tmp_path / "cirr")
    for split in ("train", "val"):
        with edited(captions_file(root, split)) as records:
            for number, record in enumerate(records):
                record["caption"] = f"Show the {number} cats &amp; a Dog"
            records[1]["caption"] = "nothing here"
            records[2]["phrases"] = [{"start": 0, "end": 4}]
    return root


def expected_spans(captions: list[str]) -> list[tuple[tuple[int, int], ...]]:
    found = [tuple(map(tuple, parse.phrases)) for parse in PARSER.parse(captions)]
    return [((0, 4),) if number == 2 else spans for number, spans in enumerate(found)]


def spans_by_index(loader: DataLoader) -> dict[int, tuple[tuple[int, int], ...]]:
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    for batch in loader:
        query = getattr(batch, "query", batch)
        for row, index in enumerate(query.index.tolist()):
            found[index] = tuple(map(tuple, query.phrases.spans[query.phrases.owner == row].tolist()))
        assert query.phrases.boxes.isnan().all()
    return found


@pytest.mark.parametrize("kind", ["bank", "parser", "both"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_phrases_of_the_source(kind: str, workers: int, cirr: Path, tmp_path: Path) -> None:
    captions = {split: read_captions(captions_file(cirr, split)) for split in ("train", "val")}
    known = [caption for each in captions.values() for caption in each]
    bank = bank_of(tmp_path / "bank", known[1:] if kind == "both" else known)
    sources = {"bank": BankPhrases(bank), "parser": ParsedPhrases(PARSER), "both": BankThenParser(bank, PARSER)}
    data = CIRR(cirr, batch_size=3, num_workers=workers, preprocess=preprocess, phrases=sources[kind])
    expected = dict(enumerate(expected_spans(captions["train"])))
    assert expected[1] == () and expected[0][0] == (5, 10)
    assert spans_by_index(data.train_dataloader()) == expected
    assert spans_by_index(data.val_dataloader()[1]) == dict(enumerate(expected_spans(captions["val"])))
    assert data.query_batch("val", 0, [3, 0]).phrases.spans.tolist() == [
        list(span) for index in (3, 0) for span in expected_spans(captions["val"])[index]
    ]


def test_an_item_is_parsed_once(cirr: Path) -> None:
    data = CIRR(cirr, batch_size=1, num_workers=0, preprocess=preprocess, phrases=ParsedPhrases(PARSER))
    loader = data.train_dataloader()
    WordParser.batches.clear()
    list(loader)
    assert len(WordParser.batches) == 6  # one brings its own phrases, but no clauses


def test_without_a_source_records_are_left_alone(cirr: Path) -> None:
    data = CIRR(cirr, batch_size=3, num_workers=0, preprocess=preprocess)
    assert spans_by_index(data.train_dataloader()) == {index: ((0, 4),) if index == 2 else () for index in range(6)}


def test_missing_captions_are_told_before_training_with_a_command_that_adds_them(cirr: Path, tmp_path: Path) -> None:
    captions = read_captions(captions_file(cirr))
    bank = bank_of(tmp_path / "bank", captions[:3])
    data = CIRR(cirr, batch_size=3, num_workers=0, preprocess=preprocess, phrases=BankPhrases(bank))
    with pytest.raises(ValueError) as error:
        data.train_dataloader()
    file = captions_file(cirr)
    start = f"3 of 5 captions without phrases, the first in record 3 (pairid 10) of {file}: caption {captions[3]!r}"
    command = f"python -m experiments.phrases --captions {file} --parser=words --out {bank}"
    assert str(error.value).startswith(start) and str(error.value).endswith(f"`{command}`")
    flags = command.replace("--parser=words", "--parser=tests.helpers.word_parser.WordParser").split()
    phrases_command(flags[3:])
    assert len(spans_by_index(data.train_dataloader())) == 6


def test_a_bank_that_is_not_there_is_told_before_training(cirr: Path, tmp_path: Path) -> None:
    data = CIRR(cirr, batch_size=3, num_workers=0, preprocess=preprocess, phrases=BankPhrases(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no phrase bank"):
        data.train_dataloader()


def test_an_item_without_phrases_names_its_record(cirr: Path, tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank", ["another"])
    data = CIRR(cirr, num_workers=0, preprocess=preprocess, phrases=BankPhrases(bank))
    with pytest.raises(ValueError, match=r"^record 4 \(pairid 1011\) of .*val.json: caption '.*' is not in the phrase"):
        data.query_batch("val", 0, [4])


def test_a_mixture_names_the_files_of_all_its_sets(tmp_path: Path) -> None:
    folders = make_sets(tmp_path)
    bank = bank_of(tmp_path / "bank", ["a 0"])
    with pytest.raises(ValueError) as error:
        mixture(folders, batch_size=2, phrases=BankPhrases(bank)).train_dataloader()
    files = [captions_file(folders["cirr"]), folders["again"], folders["own"] / "train.json"]
    assert f"--captions {' '.join(map(str, files))} --parser" in str(error.value)
    bank_of(bank, [caption for file in files for caption in read_captions(file)])
    found = spans_by_index(mixture(folders, batch_size=2, phrases=BankPhrases(bank)).train_dataloader())
    assert len(found) == 12 and any(found.values())


def json_files(root: Path) -> list[Path]:
    return sorted(root.rglob("cap*.json"))


def fashioniq(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    make_fashioniq(root)
    modules = [FashionIQ(root, query_text=text(), train_text=text()) for text in CaptionText.__subclasses__()]
    return modules, json_files(root)


def circo(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    make_circo(root)
    return [CIRCO(root, query_text=text()) for text in QueryText.__subclasses__()], sorted(
        (root / "annotations").glob("*.json")
    )


def genecis(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    make_genecis(root)
    return [GeneCIS(root)], sorted((root / "genecis").glob("*.json"))


def lasco(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    make_lasco(root)
    return [LaSCo(root)], [root / "downloads" / f"lasco_{split}.json" for split in ("train", "val")]


def scenes(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    size = Size(train_references=2, references=1, shared_references=1)
    write_scenes(root, 0, size, workers=1)
    modules = [
        Scenes(root, size=size),
        *(CIRCO(root / "circo", query_text=text()) for text in QueryText.__subclasses__()),
    ]
    return modules, [*json_files(root), *(root / "circo" / "annotations").glob("*.json")]


def manifests(root: Path) -> tuple[list[CompositionDataModule], list[Path]]:
    cirr, hotel = make_cirr(root / "cirr"), make_hotel(root / "hotel")
    make_rewritten(cirr)
    for name, folder in (("cirr_rewritten", cirr), ("hotel", hotel)):
        convert([name, f"--root={folder}", "--split=train", f"--out={folder / 'train.jsonl'}"])
    modules = [Manifest(folder, val_splits=[], test_splits=[]) for folder in (cirr, hotel)]
    return modules, [folder / "train.jsonl" for folder in (cirr, hotel)]


@pytest.mark.parametrize("make", [fashioniq, circo, genecis, lasco, scenes, manifests])
def test_files_give_the_texts_that_data_modules_give_to_the_model(
    make: Callable[[Path], tuple[list[CompositionDataModule], list[Path]]], tmp_path: Path
) -> None:
    modules, files = make(tmp_path / "data")
    given: set[str] = set()
    for module in modules:
        stages = ("validate", "test") if isinstance(module, CIRCO | GeneCIS) else ("fit", "test")
        given |= {caption for stage in stages for caption in captions_of(module, stage)}
    assert files and given == {caption for file in files for caption in read_captions(file)}


@pytest.mark.slow
def test_real_annotations_give_the_texts_of_their_data_modules(shared: Path) -> None:
    data = shared / "data"
    modules: list[CompositionDataModule] = [CIRR(data / "cirr", val_splits=["val", "test1"])]
    for text in (kind() for kind in CaptionText.__subclasses__()):
        modules.append(FashionIQ(data / "fashioniq", train_text=text, query_text=text))
    for module in modules:
        stages = ("fit", "test") if isinstance(module, FashionIQ) else ("validate",)
        given = {caption for stage in stages for caption in captions_of(module, stage)}
        assert len(given) > 8000
        assert given <= {caption for file in json_files(module.root / "captions") for caption in read_captions(file)}


def test_every_text_of_a_bank_from_files_has_its_phrases_there(tmp_path: Path) -> None:
    modules, files = fashioniq(tmp_path / "data")
    out = tmp_path / "bank"
    phrases_command(
        ["--captions", *map(str, files), "--parser=tests.helpers.word_parser.WordParser", "--out", str(out)]
    )
    bank = PhraseBank(out)
    given = {caption for module in modules for caption in captions_of(module, "fit")}
    assert (
        sum(len(bank.phrases(caption)) for caption in given)
        == sum(len(parse.phrases) for parse in PARSER.parse(list(given)))
        > 0
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '[{"text": "a dog"}]', "needs one of the fields caption"),
        ("a.json", '[{"caption": "a dog"}, {}]', r"record 1 of .*: field caption is missing"),
        ("a.json", '[{"captions": ["one"], "candidate": "B"}]', "must be a list of two captions, got 1"),
        ("a.json", "[3]", "needs one of the fields .*got 3"),
        ("a.csv", "a dog", r"expected a file \.json, \.jsonl or \.txt \(captions\)"),
    ],
)
def test_files_without_captions_are_told(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_captions(tmp_path / name)


def test_a_text_file_holds_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a dog\r\n\n  \u2028the café\n")
    assert read_captions(tmp_path / "a.txt") == ["a dog", "the café"]
    with pytest.raises(FileNotFoundError, match=r"expected annotation files, .*\(captions\)"):
        read_captions(tmp_path / "none.txt")
