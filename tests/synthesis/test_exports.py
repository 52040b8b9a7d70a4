"""Exports: the project's own readers find in them what was kept, and their fields are those of the official files."""

import json
import re
from pathlib import Path

import pytest

from contextcir.synthesis.outputs.exports import CIRRRewritten, Export, ExportStage, HotelCIR
from contextcir.synthesis.outputs.exports import LaSCo as LaSCoExport
from contextcir.synthesis.outputs.manifest import write_manifest
from contextcir.synthesis.records import Instruction, Pair, Verdict
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import Shard, shard_path
from data_modules import LaSCo, Manifest
from data_modules.cirr import CIRRReader
from data_modules.converters import HotelConverter, RewrittenConverter
from tests.helpers.make_data import preprocess, write_image

PATHS = ["{n}.png", "a/b/c/{n}.jpg", "é x/{n}.jpeg", "b/{n}.webp"]
Texts = dict[tuple[str, str], list[str]]


def make(folder: Path, pairs: list[Pair]) -> Path:
    """Write a synthesis with two texts for each pair, and the images that it speaks of; return its folder."""
    texts = [Instruction(f"{p.key}#{n}", p.key, f"Füge „{p.key}“ hinzu, {n}\\", 1) for p in pairs for n in range(2)]
    stages = {"pairs": pairs, "instruct": texts, "filter": [Verdict(text.key, None) for text in texts]}
    for stage, records in stages.items():
        with Shard(shard_path(folder / "run", stage, 0, 1)) as shard:
            shard.append([record.to_json() for record in records])
    for image in {image for pair in pairs for image in (pair.reference, pair.target, *pair.image_set)}:
        write_image(folder / "photos" / image, image)
    write_manifest(folder / "run", None, val_share=0.5)
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A synthesis of eight pairs in folders of several depths; the last image of each set is in no pair."""
    pairs = []
    for number in range(8):
        place = PATHS[number % len(PATHS)]
        images = tuple(place.format(n=f"{kind}{number}") for kind in "rts")
        pairs.append(Pair(f"k{number}", images[0], images[1], images))
    return make(tmp_path, pairs)


def kept(folder: Path, split: str) -> Texts:
    """Texts by the contents of reference and target, which no path can change."""
    found: Texts = {}
    for line in (folder / "manifest" / f"{split}.jsonl").read_text().splitlines():
        record = json.loads(line)
        sides = [content(folder.parent / "photos" / record[side]) for side in ("reference", "target")]
        found.setdefault((sides[0], sides[1]), []).append(record["caption"])
    return found


def content(path: Path) -> str:
    return path.read_bytes().hex()


def of_records(records: list[dict], root: Path) -> Texts:
    found: Texts = {}
    for record in records:
        key = (content(root / record["reference"]), content(root / record["target"]))
        found.setdefault(key, []).append(record["caption"])
    return found


def made(folder: Path, kind: Export) -> Path:
    tally = ExportStage(kind, folder.parent / "photos").run(Run(folder))
    out = folder / "exports" / kind.name
    assert tally.done in (8, 16) and str(tally) == f"write: {tally.done} records in {out}"
    assert not list(out.parent.glob(".*"))
    return out


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_rewritten_captions_read_back(folder: Path, split: str) -> None:
    out = made(folder, CIRRRewritten())
    records = RewrittenConverter(out, split, sentences="separate").run().records
    assert of_records(records, out / "img_raw") == kept(folder, split)
    (listed, _) = CIRRReader(out).read_paths(split)
    assert len(listed) == 8 and all((out / "img_raw" / path).is_file() for path in listed.values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_hotel_cir_reads_back_with_its_images(folder: Path, split: str) -> None:
    out = made(folder, HotelCIR())
    conversion = HotelConverter(out, split).run()
    assert of_records(conversion.records, out) == kept(folder, split)
    assert len(conversion.gallery) == (8 if split == "train" else 12)  # with an image of each set that is in no pair
    assert all((out / image).is_file() for image in conversion.gallery)


def test_lasco_reads_back_and_trains(folder: Path) -> None:
    out = made(folder, LaSCoExport())
    options = {"num_workers": 0, "batch_size": 4, "preprocess": preprocess, "allow_links": True}
    module = LaSCo(out, **options)
    evaluation = module.read_evaluation("val")
    for split, read in (("train", module.read_training()), ("val", evaluation)):
        records = [
            {
                "reference": read.image_paths[r.reference],
                "target": read.image_paths[str(r.target)],
                "caption": r.caption,
            }
            for r in read.records
        ]
        assert of_records(records, out) == kept(folder, split)
    assert len(evaluation.protocol.gallery) == 8
    assert sum(len(batch.target) for batch in module.train_dataloader()) == 8
    names = json.loads((out / "images.json").read_text())
    (first, *_) = json.loads((out / "downloads" / "lasco_train.json").read_text())
    assert content(out / first["query-image"][1]) == content(
        folder.parent / "photos" / names[str(first["query-image"][0])]
    )


def test_images_of_coco_keep_number_and_path(tmp_path: Path) -> None:
    def coco(number: int) -> str:
        return f"train2014/COCO_train2014_{number:012d}.jpg"

    out = made(make(tmp_path, [Pair(f"k{n}", coco(10 * n + 7), coco(10 * n + 8)) for n in range(8)]), LaSCoExport())
    records = json.loads((out / "downloads" / "lasco_val.json").read_text())
    assert all(record["query-image"][1] == coco(record["query-image"][0]) for record in records)
    assert {record["query-image"][0] % 10 for record in records} == {7}


def keys(path: Path) -> list[set[str]]:
    return [set(record) for record in json.loads(path.read_text())]


def test_fields_are_those_of_the_official_files(folder: Path, shared: Path) -> None:
    told = (shared / "data" / "lasco" / "README.md").read_text()
    triplet = set(re.findall(r"'([\w-]+)':", told.partition("# triplet dict")[2].partition("}")[0]))
    lasco = made(folder, LaSCoExport()) / "downloads"
    assert triplet == {"qid", "query-image", "query-text", "target-image"}
    assert all(found == triplet for found in keys(lasco / "lasco_train.json"))
    official = json.loads((shared / "data" / "lasco" / "downloads" / "lasco_val_corpus.json").read_text())[0]
    ours = json.loads((lasco / "lasco_val_corpus.json").read_text())[0]
    digits = re.compile(r"\d{12}")
    assert set(ours) == set(official) and type(ours["id"]) is type(official["id"])
    assert digits.sub("", ours["path"]) == digits.sub("", official["path"])
    listed = json.loads((shared / "data" / "cirr" / "image_splits" / "split.rc2.val.json").read_text())
    out = made(folder, CIRRRewritten())
    for name, path in json.loads((out / "image_splits" / "split.synthetic.val.json").read_text()).items():
        assert isinstance(name, str) and path.startswith("./") and Path(path).name.removesuffix(".png") == name
    assert all(Path(path).name.removesuffix(".png") == name and path.startswith("./") for name, path in listed.items())


def test_fields_are_those_that_published_loaders_read(folder: Path) -> None:
    rewritten, hotel = made(folder, CIRRRewritten()), made(folder, HotelCIR())
    fields = {"query_image_url", "retrieved_image_url", "difference_captions"}
    assert keys(rewritten / "rewritten_captions" / "rewritten_val.json") == [fields] * 4
    pair = {"query_image", "result_image", "difference"}
    assert keys(hotel / "captions" / "hotel_train_data.json") == [pair] * 8
    assert keys(hotel / "captions" / "hotel_val_data.json") == [pair | {"distractors"}] * 8


@pytest.mark.parametrize("kind", [CIRRRewritten(), HotelCIR()])
def test_images_that_would_get_the_same_name_are_told(kind: Export, tmp_path: Path) -> None:
    pairs = [Pair(f"k{n}", f"{n}/p/q/same.png", f"{n}/t{n}.png") for n in range(4)]
    run = make(tmp_path, pairs)
    with pytest.raises(ValueError, match=r"would call two images .*same.*/p/q/same\.png' and .*\(write\.exports\)"):
        ExportStage(kind, tmp_path / "photos").run(Run(run))
    assert not (run / "exports" / kind.name).exists()


def test_an_export_is_replaced_as_a_whole(folder: Path) -> None:
    out = made(folder, LaSCoExport())
    first = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    (out / "left.txt").write_text("of an earlier one")
    (out.parent / ".lasco.new").mkdir()
    assert {path: path.read_bytes() for path in made(folder, LaSCoExport()).rglob("*.*") if path.is_file()} == first


def test_without_a_manifest_there_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage write first"):
        ExportStage(HotelCIR(), tmp_path).run(Run(tmp_path))


def test_what_is_exported_trains_as_a_manifest_does(folder: Path) -> None:
    out = made(folder, HotelCIR())
    records = HotelConverter(out, "train").run().records
    (out / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    module = Manifest(out, val_splits=[], batch_size=4, num_workers=0, preprocess=preprocess, allow_links=True)
    assert sum(len(batch.target) for batch in module.train_dataloader()) == 8
