"""i-CIR, PinPoint and PatternCom: their files, and their published scores written out as loops over the files."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from contextcir.errors import InputError, MissingFileError
from contextcir.evaluation.protocol import Protocol
from data_modules import ICIR, PatternCom, PinPoint
from data_modules.icir import ICIRReader
from data_modules.patterncom import PatternComReader
from data_modules.pinpoint import PinPointReader
from tests.helpers.make_newer import (
    ICIR_DATABASE,
    ICIR_QUERIES,
    PATTERNS,
    make_icir,
    make_patterncom,
    make_pinpoint,
    pinpoint_rows,
    signature,
)
from tests.helpers.metric_oracle import fed


def rankings(protocol: Protocol, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Embeddings of all records and images, and the whole ranking of every query by them."""
    generator = torch.Generator().manual_seed(seed)
    records = torch.randn(len(protocol.record_queries()), 8, generator=generator)
    gallery = torch.randn(len(protocol.gallery), 8, generator=generator)
    unit = torch.nn.functional.normalize(records, dim=1)
    of = torch.tensor(protocol.record_queries())
    queries = torch.stack([unit[of == query].mean(0) for query in range(len(protocol.query_ids))])
    scores = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    return records, gallery, scores.argsort(1, descending=True).tolist()


def figures(protocol: Protocol, records: torch.Tensor, gallery: torch.Tensor) -> dict[str, float]:
    return {name: value.item() / 100 for name, value in fed(protocol, records, gallery).figures().items()}


@pytest.mark.parametrize("layout", [("", ""), ("icir", "icir"), ("annotations", "")])
def test_icir_ranks_every_query_in_the_database_of_its_instance(tmp_path: Path, layout: tuple[str, str]) -> None:
    data = ICIR(make_icir(tmp_path, *layout))
    protocol = data.protocols("test")[0]
    assert protocol.only_subsets and protocol.targets == ((0, 1), (0, 1), (2,), (5,))
    assert protocol.subsets == ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), (4, 5, 6))
    assert protocol.query_groups == (0, 0, 0, 1) and protocol.references == (-1,) * 4
    assert protocol.gallery[5:] == ("database/vase/1.jpg", "database/vase/1.jpg#6"), "an image of two rows is two"
    assert data.gallery_image("test", 0, 5).size == data.gallery_image("test", 0, 6).size
    assert [record.caption for record in data.query_records("test", 0)] == [text for _, text, _ in ICIR_QUERIES]


@pytest.mark.parametrize("seed", range(4))
def test_icir_is_scored_as_by_its_authors(tmp_path: Path, seed: int) -> None:
    protocol = ICIR(make_icir(tmp_path)).protocols("val")[0]
    records, gallery, ranked = rankings(protocol, seed)
    by_instance = defaultdict(list)
    for order, (_, text, instance) in zip(ranked, ICIR_QUERIES, strict=True):
        own = [row for row in order if ICIR_DATABASE[row][2] == instance]
        places = [place for place, row in enumerate(own) if ICIR_DATABASE[row][1:] == (text, instance)]
        step, area = 1.0 / (len(places) + 1e-5), 0.0
        for number, place in enumerate(places):
            before = 1.0 if place == 0 else float(number) / place
            area += (before + float(number + 1) / (place + 1)) * step / 2.0
        by_instance[instance].append(area)
    computed = figures(protocol, records, gallery)
    values = [area for areas in by_instance.values() for area in areas]
    assert computed["subset_average_precision"] == pytest.approx(sum(values) / 4, abs=1e-6)
    means = [sum(areas) / len(areas) for areas in by_instance.values()]
    assert computed["subset_average_precision_by_group"] == pytest.approx(sum(means) / 2, abs=1e-6)
    assert computed["subset_average_precision_worst"] == pytest.approx(
        sum(map(min, by_instance.values())) / 2, abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("query_files.csv", "icir/query/x.jpg,at night", "expected 3 fields (image, text, instance), got 2"),
        (
            "query_files.csv",
            "icir/query/x.jpg,by day, or night,bridge",
            "expected 3 fields (image, text, instance), got 4",
        ),
        ("query_files.csv", "icir/query/x.jpg,by day,bridge", "has no right answer in the database of its instance"),
        ("database_files.csv", "../x.jpg,at night,bridge", "field image must be a path below the folder"),
    ],
)
def test_a_broken_line_of_icir_is_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    with open(make_icir(tmp_path) / name, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match="record [47]") as refused:
        ICIRReader(tmp_path).read_evaluation("test")
    assert message in str(refused.value)


@pytest.mark.parametrize("reader", [ICIRReader, PinPointReader, PatternComReader])
def test_a_folder_without_their_files_is_refused_in_one_line(tmp_path: Path, reader: type) -> None:
    split = "color" if reader is PatternComReader else "test"
    with pytest.raises(MissingFileError, match=r"no file .*expected the folder of") as refused:
        reader(tmp_path).read_evaluation(split)
    assert refused.value.setting == "data.root" and "\n" not in str(refused.value)
    with pytest.raises(InputError, match="got 'train'") as other:
        reader(tmp_path).read_evaluation("train")
    assert other.value.setting == "data.split"


def test_pinpoint_has_wrong_answers_paraphrases_and_queries_of_two_images(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    data = PinPoint(make_pinpoint(tmp_path))
    protocol = data.protocols("test")[0]
    assert protocol.query_ids == (1, 2, 3) and protocol.targets == ((3, 4), (3, 4), (6,))
    assert protocol.negatives == ((5,), (5,), (0, 6)) and protocol.query_groups == (0, 0, 1)
    assert protocol.references == (0, 0, 1) and protocol.further_references == ((), (), (2,))
    assert protocol.strata == {"references_1": (0, 1), "references_2": (2,)}
    assert [record.reference for record in data.query_records("test", 0)] == [signature(n) for n in (0, 0, 1, 2)]


@pytest.mark.parametrize("seed", range(4))
def test_pinpoint_is_scored_as_by_its_authors(tmp_path: Path, seed: int) -> None:
    """Repeated and empty entries count in denominators."""
    pytest.importorskip("pyarrow")
    protocol = PinPoint(make_pinpoint(tmp_path)).protocols("test")[0]
    records, gallery, ranked = rankings(protocol, seed)
    ranked_names = [[signature(image) for image in order] for order in ranked]

    def precision(names: list[str], right: list[str], k: int) -> float:
        hits = [name in right for name in names[:k]]
        return sum(sum(hits[: n + 1]) / (n + 1) for n in range(len(hits)) if hits[n]) / min(len(right), k)

    sums, variations = defaultdict(float), defaultdict(list)
    for names, row in zip(ranked_names, pinpoint_rows(), strict=True):
        right, wrong = row["positive_candidates"], row["negative_candidates"]
        for k in (1, 5, 10, 50):
            sums[f"map_at_{k}"] += precision(names, right, k) / 3
            sums[f"precision_at_{k}"] += sum(name in right for name in names[:k]) / k / 3
            sums[f"neg_recall_at_{k}"] += sum(name in wrong for name in names[:k]) / min(len(wrong), k) / 3
            left = [name for name in names if name not in wrong]
            sums[f"map_without_negatives_at_{k}"] += precision(left, right, k) / 3
        images = row["query_image_signature"], row["query_image_signature2"]
        variations[images].append(sum(name in right for name in names[:10]) / 10)
    ranges = [max(values) - min(values) for values in variations.values() if len(values) > 1]
    sums["precision_at_10_spread"] = sum(ranges) / len(ranges)
    computed = figures(protocol, records, gallery)
    assert {name: computed[name] for name in sums} == pytest.approx(dict(sums), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive_candidates": [signature(77)]}, "field positive_candidates names image"),
        ({"positive_candidates": []}, "field positive_candidates is empty"),
        ({"query_id": "first"}, "field query_id must be a number like query_00001, got 'first'"),
        ({"query_image_signature": "../x"}, "must be a signature of 32 hexadecimal digits, got '../x'"),
    ],
)
def test_a_broken_row_of_pinpoint_is_named(tmp_path: Path, change: dict, message: str) -> None:
    pytest.importorskip("pyarrow")
    first, *rest = pinpoint_rows()
    with pytest.raises(InputError, match="record 0") as refused:
        PinPointReader(make_pinpoint(tmp_path, [first | change, *rest])).read_evaluation("test")
    assert message in str(refused.value)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (make_pinpoint(tmp_path) / "pinpoint_licensed.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="is no Parquet file that can be read") as refused:
        PinPointReader(tmp_path).read_evaluation("test")
    assert "\n" not in str(refused.value)


def test_patterncom_asks_for_every_other_value_of_a_class(tmp_path: Path) -> None:
    protocol = PatternCom(make_patterncom(tmp_path), test_splits=["density"]).protocols("test")[0]
    records = PatternComReader(tmp_path).read_evaluation("density").records
    names = {image: place for place, image in enumerate(protocol.gallery)}
    expected = []
    one = {"denseresidential": "residential", "sparseresidential": "residential"}
    label = {image: image.rstrip(".jpg0123456789") for image in PATTERNS}
    of = {image: one.get(name, name) for image, name in label.items()}
    for image, (_, own) in PATTERNS.items():
        values = {value for other, (_, value) in PATTERNS.items() if of[other] == of[image]} - {own}
        for value in sorted(values):
            right = [n for n, (_, other) in PATTERNS.items() if other == value and of[n] == of[image]]
            expected.append((image, value, tuple(names[n] for n in right)))
    found = [(r.reference, r.caption, targets) for r, targets in zip(records, protocol.targets, strict=True)]
    assert found == expected and len(found) == 12
    assert len(protocol.gallery) == 10 and protocol.averaged_as == "patterncom"


@pytest.mark.parametrize("seed", range(3))
def test_patterncom_is_scored_as_by_its_authors(tmp_path: Path, seed: int) -> None:
    protocol = PatternCom(make_patterncom(tmp_path), val_splits=["density"]).protocols("val")[0]
    records, gallery, ranked = rankings(protocol, seed)
    total = 0.0
    for order, targets in zip(ranked, protocol.targets, strict=True):
        precisions, relevant = [], 0
        for place, image in enumerate(order, start=1):
            if image in targets:
                relevant += 1
                precisions.append(relevant / place)
        total += sum(precisions) / len(precisions) / len(ranked)
    computed = figures(protocol, records, gallery)
    assert computed["average_precision"] == pytest.approx(total, abs=1e-6)


def test_an_image_that_patternnet_lacks_is_named(tmp_path: Path) -> None:
    with open(make_patterncom(tmp_path) / "PatternCom" / "density.csv", "a") as file:
        file.write("river001.jpg,density,dense\n")
    with pytest.raises(InputError, match=r"record 8 .*names image 'river001.jpg', which is not in patternnet.csv"):
        PatternComReader(tmp_path).read_evaluation("density")
