"""Official annotations, scored: published figures, and the official definitions written out as loops over the JSON."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.scoring import known_answers, score_queries
from data_modules import CIRCO, CIRR
from tests.helpers.make_data import write_json


def test_the_official_example_submission_of_circo_gets_its_official_score(shared: Path, tmp_path: Path) -> None:
    """The official evaluation gives these percentages for ``submission_val.json``."""
    circo = shared / "data" / "circo"
    submission = json.loads((circo / "submission_examples" / "submission_val.json").read_text())
    records = json.loads((circo / "annotations" / "val.json").read_text())
    shutil.copytree(circo / "annotations", tmp_path / "annotations")
    # COCO's list of all images is not there: one of all images that occur stands in for it.
    occurring = {image for record in records for image in (record["reference_img_id"], *record["gt_img_ids"])}
    occurring |= {image for ranking in submission.values() for image in ranking}
    images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in sorted(occurring)]
    write_json(tmp_path / "annotations" / "image_info_unlabeled2017.json", {"images": images})
    (protocol,) = CIRCO(tmp_path).protocols("val")

    column = {name: number for number, name in enumerate(protocol.gallery)}
    scores = torch.full((220, len(protocol.gallery)), -torch.inf)  # what is not in the file is never found
    for query, identity in enumerate(protocol.query_ids):
        ranking = submission[str(identity)]
        scores[query, [column[str(image)] for image in ranking]] = -torch.arange(len(ranking), dtype=torch.float32)
    answers = known_answers(protocol, torch.arange(220), torch.arange(len(protocol.gallery)))
    values = score_queries(protocol, answers, [(slice(0, 100), scores[:100]), (slice(100, 220), scores[100:])]).values

    figures = {name: round(100 * value.double().mean().item(), 4) for name, value in values.items()}
    assert [figures[f"map_at_{k}"] for k in (5, 10, 25, 50)] == [0.4861, 0.5178, 0.5400, 0.6020]
    assert [figures[f"recall_at_{k}"] for k in (5, 10, 25, 50)] == [0.9091, 0.9091, 1.3636, 3.6364]
    aspects = {
        name.removeprefix("aspect_"): round(100 * values["map_at_10"][list(queries)].double().mean().item(), 4)
        for name, queries in protocol.strata.items()
    }
    assert aspects == {
        "comparative_statement": 1.05, "direct_addressing": 0.9197, "statement_with_conjunction": 0.6183,
        "viewpoint": 0.6173, "spatial_relations_background": 0.1808, "addition": 0.0871, "compare_change": 0.0242,
        "cardinality": 0.0, "negation": 0.0,
    }  # fmt: skip


def test_official_cirr_val_is_scored_as_its_definitions_say(shared: Path) -> None:
    """Hard, as all current code bases do, and soft, as the authors' CIRPLANT does: from the JSON, without a protocol.

    Every 9th query, and all whose hard target is without relevance or whose reference has one.
    """
    cirr = shared / "data" / "cirr"
    records = json.loads((cirr / "captions" / "cap.rc2.val.json").read_text())
    gallery = list(json.loads((cirr / "image_splits" / "split.rc2.val.json").read_text()))
    column = {name: number for number, name in enumerate(gallery)}
    odd = [i for i, r in enumerate(records) if r["target_soft"].get(r["target_hard"], 0) <= 0]
    odd += [i for i, r in enumerate(records) if r["reference"] in r["target_soft"]]
    chosen = sorted({*range(0, len(records), 9), *odd})
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(gallery), 16, generator=generator)
    mixed = [images[column[r["target_hard"]]] + images[column[r["reference"]]] for r in (records[i] for i in chosen)]
    queries = torch.stack(mixed) + 0.8 * torch.randn(len(chosen), 16, generator=generator)

    (protocol,) = CIRR(cirr).protocols("val")
    metric = CompositionMetric(protocol)
    metric.update_gallery(torch.arange(len(gallery)), images)
    metric.update_queries(torch.tensor(chosen), queries)
    figures = {name: value.item() for name, value in metric.figures().items()}

    unit = torch.nn.functional.normalize(images.double(), dim=-1)
    sums = dict.fromkeys(protocol.metric_names(), 0.0)
    for row, position in enumerate(chosen):
        record = records[position]
        scores = (unit @ queries[row].double()).tolist()
        names = [name for name in gallery if name != record["reference"]]
        ranking = sorted(names, key=lambda name: -scores[column[name]])
        small = [name for name in ranking if name in record["img_set"]["members"]]
        assert len(ranking) == 2296 and len(small) == 5
        for prefix, listed, cutoffs in (("", ranking, (1, 5, 10, 50)), ("subset_", small, (1, 2, 3))):
            for k in cutoffs:
                sums[f"{prefix}recall_at_{k}"] += record["target_hard"] in listed[:k]
                soft = max(record["target_soft"].get(name, 0.0) for name in listed[:k])
                sums[f"soft_{prefix}recall_at_{k}"] += max(soft, 0.0)
    sums["mean_recall"] = (sums["recall_at_5"] + sums["subset_recall_at_1"]) / 2
    assert figures == pytest.approx({name: 100 * value / len(chosen) for name, value in sums.items()}, abs=1e-3)
    assert figures["recall_at_1"] != figures["soft_recall_at_1"] and 5 < figures["recall_at_1"] < 95


def test_guessing_finds_a_fifth_in_the_subsets_of_cirr_and_nothing_when_collapsed(shared: Path) -> None:
    (protocol,) = CIRR(shared / "data" / "cirr").protocols("val")
    generator = torch.Generator().manual_seed(0)
    figures = []
    for images in (torch.randn(2297, 16, generator=generator), torch.ones(2297, 16)):
        metric = CompositionMetric(protocol)
        metric.update_gallery(torch.arange(2297), images)
        metric.update_queries(torch.arange(4181), torch.randn(4181, 16, generator=generator))
        figures.append(metric.figures())
        assert metric.coverage() == (4181, 2297)
    for k in (1, 2, 3):
        assert figures[0][f"subset_recall_at_{k}"].item() == pytest.approx(20 * k, abs=2)
    assert all(value == 0 for name, value in figures[1].items() if not name.startswith("soft"))
