"""CIRR as MTEB scores it: the official files give its official numbers; the rules on small made data."""

import json
from pathlib import Path

import pytest

from contextcir.errors import InputError, MissingFileError
from contextcir.evaluation.submission import formats_of
from data_modules import CIRR
from data_modules.cirr_mteb import MTEBCIRRReader, query_text
from tests.helpers.make_data import edited, make_cirr, preprocess


def test_the_official_files_give_the_numbers_of_mteb(shared: Path) -> None:
    protocol = CIRR(shared / "data" / "cirr", protocol="mteb").protocols("val")[0]
    assert (len(protocol.query_ids), len(protocol.gallery)) == (4_170, 21_551)
    assert sum(map(len, protocol.targets)) == 4_216 and max(map(len, protocol.targets)) == 3
    own = sum(r in targets for r, targets in zip(protocol.references, protocol.targets, strict=True))
    assert own == 37, "references that are right answers to their own query"
    records = json.loads((shared / "data" / "cirr" / "captions" / "cap.rc2.val.json").read_text())
    wanted = {r["pairid"]: {name for name, grade in r["target_soft"].items() if grade == 1.0} for r in records}
    for number, targets in zip(protocol.query_ids, protocol.targets, strict=True):
        assert wanted[number] <= {protocol.gallery[image] for image in targets}


def test_its_rules(tmp_path: Path) -> None:
    root = make_cirr(tmp_path, sets=1)
    with edited(root / "captions" / "cap.rc2.val.json") as records:
        members = records[0]["img_set"]["members"]
        records[0] |= {"caption": " show two ", "target_soft": {members[1]: 1.0, members[4]: 0.5, members[0]: 1.0}}
        records[1] |= {"reference": members[0], "target_hard": members[2], "caption": "Show two."}
        records[1]["target_soft"] = {members[1]: 1.0, members[5]: 1.0, members[3]: -1.0}
        records[2]["target_soft"] = {members[3]: 0.2}
    reader = MTEBCIRRReader(root)
    evaluation = reader.read_evaluation("val")
    protocol, names = evaluation.protocol, evaluation.protocol.gallery
    assert len(names) == 18 and {name.split("-")[0] for name in names} == {"train", "val", "test1"}
    assert [[names[image] for image in targets] for targets in protocol.targets] == [
        [members[1], members[0], members[5]]
    ]
    assert [record.caption for record in evaluation.records] == ["Show two."] and not protocol.exclude_reference
    assert protocol.headline == "ndcg_at_10" and protocol.benchmark == "cirr_mteb" and formats_of(protocol) == ()
    assert protocol.describe()["scored_as"] == "MTEB CIRRIT2IRetrieval"
    data = CIRR(root, protocol="mteb", preprocess=preprocess)
    assert data.reference_image("val", 0, 0).size == data.gallery_image("val", 0, 17).size
    assert len(data.read_training().records) == 3, "trained on as ever"


def test_the_whole_corpus_is_needed(tmp_path: Path) -> None:
    (make_cirr(tmp_path) / "image_splits" / "split.rc2.train.json").unlink()
    with pytest.raises(MissingFileError, match="corpus has the images of all splits: no file"):
        MTEBCIRRReader(tmp_path).read_evaluation("val")
    with pytest.raises(InputError, match="expected one of official, mteb, got 'mbeir'"):
        CIRR(tmp_path, protocol="mbeir")


@pytest.mark.parametrize(
    ("caption", "text"),
    [("  show a dog", "Show a dog."), ('"a dog!"', "A dog!"), ("a\r\ndog?", "A\ndog?"), (" ", ""), ('""', "")],
)
def test_texts_are_written_as_m_beir_does(caption: str, text: str) -> None:
    assert query_text(caption) == text
