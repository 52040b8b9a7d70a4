"""What is written: a manifest that reads back, a card that adds up, and a page on which everything is text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from contextcir.synthesis.outputs.card import cell, count, fenced, write_card
from contextcir.synthesis.outputs.manifest import write_manifest
from contextcir.synthesis.outputs.sheet import EmbeddedImages, LinkedImages, write_sheet
from contextcir.synthesis.records import Description, Failure, Instruction, Pair, Verdict
from contextcir.synthesis.store import Shard, shard_path
from data_modules import Manifest
from tests.helpers.make_data import write_image
from tests.helpers.word_parser import WordParser

HOSTILE = "<script>alert(1)</script> \"'> & ../../x `a` {{ 7 * 7 }} | cell"


def fill(folder: Path, stage: str, records: list[object]) -> None:
    with Shard(shard_path(folder, stage, 0, 1)) as shard:
        shard.append([record if isinstance(record, dict) else record.to_json() for record in records])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A synthesis of 12 pairs in 6 groups of images, of whose 24 texts 18 are kept."""
    pairs = [
        Pair(f"k{n:02}", f"a{n // 2}.png", f"b{n}.png", (f"a{n // 2}.png", f"b{n}.png", "z.png")) for n in range(12)
    ]
    told = {"model": "m|1", "prompt": "instruct 1 abc", "seed": 4, "usage": {"requests": 1, "cost": 0.25}}
    objects = ({"object": "cup", "descriptors": ["red"]},)
    texts = [
        Instruction(f"{pair.key}#{n}", pair.key, f"Add the Cup, {pair.key} {n}", 1 + n, ("a cup",), told)
        for pair in pairs
        for n in range(2)
    ]
    verdicts = [
        Verdict(text.key, "too long" if number % 4 == 3 else None, {"gain": 0.5}) for number, text in enumerate(texts)
    ]
    fill(tmp_path, "pairs", pairs)
    fill(tmp_path, "describe", [Description(pair.key, objects, objects, told) for pair in pairs])
    fill(tmp_path, "describe-failures", [Failure("k98", "describe", "refused", "", told)])
    fill(tmp_path, "instruct", texts[::-1])
    fill(tmp_path, "filter", verdicts)
    return tmp_path


def read(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest" / f"{split}.jsonl").read_text().splitlines()]


def test_the_manifest_reads_back_as_what_was_kept(folder: Path) -> None:
    written = write_manifest(folder, WordParser(), val_share=0.34)
    assert written.triplets == {"train": 12, "val": 6} and written.off == 0
    data = Manifest(root=folder / "images", file=str(folder / "manifest" / "{split}.jsonl"), test_splits=[])
    records = [*data.read_training().records, *data.read_evaluation("val").records]
    kept = [f"Add the Cup, k{n // 2:02} {n % 2}" for n in range(24) if n % 4 != 3]
    assert sorted(record.caption for record in records) == kept
    assert [len({record.id for record in records}), len({record.image_set for record in records})] == [18, 12]
    for record in records:
        assert [record.caption.lower()[p.start : p.end] for p in record.phrases] == ["the cup"]


def test_a_triplet_says_where_it_is_from(folder: Path) -> None:
    write_manifest(folder, None, val_share=0.34)
    record = read(folder, "train")[0]
    told = record["provenance"]
    assert "phrases" not in record and record["concepts"] in (1, 2)
    assert (told["model"], told["prompt"], told["seed"], told["scores"]) == ("m|1", "instruct 1 abc", 4, {"gain": 0.5})
    assert told["stages"]["instruct"].partition("#")[0] == told["stages"]["pairs"] and "usage" not in told


def test_no_image_is_in_both_splits(folder: Path) -> None:
    for seed in range(5):
        write_manifest(folder, None, val_share=0.3, seed=seed)
        images = [
            {r[side] for r in read(folder, split) for side in ("reference", "target")} for split in ("train", "val")
        ]
        assert images[0] and images[1] and not images[0] & images[1]


def test_the_same_gives_the_same_bytes_and_an_empty_split_no_file(folder: Path) -> None:
    write_manifest(folder, WordParser(), val_share=0.3)
    first = {path.name: path.read_bytes() for path in (folder / "manifest").iterdir()}
    shard = shard_path(folder, "instruct", 0, 1)
    shard.write_bytes(b"".join(sorted(shard.read_bytes().splitlines(keepends=True))))
    write_manifest(folder, WordParser(), val_share=0.3)
    assert first == {path.name: path.read_bytes() for path in (folder / "manifest").iterdir()}
    assert sorted(first) == ["train.jsonl", "val.jsonl"]
    write_manifest(folder, None, val_share=0)
    assert [path.name for path in (folder / "manifest").iterdir()] == ["train.jsonl"]


def test_nothing_to_write_is_told(folder: Path) -> None:
    shard_path(folder, "filter", 0, 1).unlink()
    with pytest.raises(ValueError, match="no instruction was kept"):
        write_manifest(folder, None)


def test_the_card_adds_up(folder: Path) -> None:
    card = write_card(count(folder), write_manifest(folder, None, val_share=0.34), {"out": "/home/x", "seed": 0})
    assert "18 triplets, 5.0 words a text." in card and "| train | 12 | 12 |" in card
    assert "| kept | 18 | 75.0 % |" in card and "| too long | 6 | 25.0 % |" in card
    # 24 texts with a cost each, 12 descriptions and a failure
    assert re.search(r"\| instruct \| 12 \| 12 \| 0 \| 0 \| 24 \| 0 \| 0 \| 6.00 \|", card)
    assert re.search(r"\| all \|.*\| 37 \| 0 \| 0 \| 9.25 \|", card)
    assert "| describe | refused | 1 |" in card and "m\\|1" in card and "| python |" in card
    assert card.rstrip().endswith("```yaml\nseed: 0\n```") and "/home/x" not in card


def test_failures_that_were_made_good_are_none(folder: Path) -> None:
    fill(folder, "describe-failures", [Failure("k01", "describe", "refused"), Failure("k98", "describe", "timeout")])
    assert count(folder).stages["describe"].failed == {"timeout": 1}


def test_a_cell_is_text() -> None:
    assert cell(HOSTILE) == (
        "&lt;script&gt;alert(1)&lt;/script&gt; \"'&gt; &amp; ../../x \\`a\\` {{ 7 \\* 7 }} \\| cell"
    )
    assert (cell(1234), cell(0.5), cell("a\nb")) == ("1,234", "0.50", "a b")
    assert fenced("a````b").startswith("`````yaml\n")


class Page(HTMLParser):
    """The tags, the image addresses and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_whatever_models_say_the_page_shows_it_as_text(tmp_path: Path) -> None:
    objects = ({"object": HOSTILE, "descriptors": [HOSTILE, "</li>"]},)
    image = 'javascript:x"onerror="alert(1)/<b>#?.png'
    fill(tmp_path, "pairs", [Pair("k", image, "b.png")])
    fill(tmp_path, "describe", [Description("k", objects, objects)])
    fill(tmp_path, "instruct", [Instruction("k#0", "k", HOSTILE, 1, (HOSTILE,))])
    fill(tmp_path, "filter", [Verdict("k#0", HOSTILE)])
    text = write_sheet(tmp_path, tmp_path / "images", LinkedImages(), 5).read_text()
    page = Page(text)
    structure = {"html", "head", "meta", "title", "style", "body", "h1", "p", "article", "figure", "img", "figcaption"}
    assert page.tags <= structure | {"ul", "li", "b", "div", "strong", "small"}
    assert page.text.count(HOSTILE) == 2 * 2 + 3  # names and descriptors of both sides; caption, edit, verdict
    assert {name for name, _ in page.attributes} <= {
        "lang", "charset", "http-equiv", "content", "class", "src", "alt", "loading",
    }  # fmt: skip
    address = next(value for name, value in page.attributes if name == "src")
    assert address.startswith("../images/") and not set(':"<>#?') & set(address)
    assert unquote(address) == f"../images/{image}"


def test_images_can_be_put_into_the_page(folder: Path) -> None:
    for number in range(12):
        write_image(folder / "images" / f"b{number}.png", f"b{number}", (400, 300))
    text = write_sheet(folder, folder / "images", EmbeddedImages(side=32), 4, seed=1).read_text()
    addresses = [value for name, value in Page(text).attributes if name == "src"]
    assert len(addresses) == 8
    assert [address.partition(",")[0] for address in addresses[1::2]] == ["data:image/jpeg;base64"] * 4
    assert all(re.fullmatch(r"\.\./images/a\d\.png", address) for address in addresses[::2])  # not there


def test_samples_are_drawn_by_the_seed(folder: Path) -> None:
    def drawn(seed: int) -> list[str]:
        return re.findall(r"k\d\d#\d", write_sheet(folder, folder, LinkedImages(), 5, seed).read_text())

    assert drawn(0) == drawn(0) != drawn(1) and len(drawn(0)) == 5
