"""The measuring of scoring: its variants do what they say, and the command gives a report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.benchmarks.measure import in_a_fork
from experiments.benchmarks.ranking import Size, make_protocol, ours, ranking, sorted_pieces


@pytest.mark.slow
@pytest.mark.slow
def test_the_report_holds_every_variant_of_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, file = {"width": 8, "threads": 1, "repeats": 2}, tmp_path / "report.json"
    ranking(circo=Size(5, 70, 14), lasco=Size(9, 40), json=file, **tiny)
    report = json.loads(file.read_text())
    variants = ["ours", "product and top-k", "full sort", "full sort of names"]
    for name, size in (("circo", (5, 70, 14)), ("lasco", (9, 40, 1))):
        assert (report[name]["queries"], report[name]["gallery"], report[name]["targets"]) == size
        assert list(report[name]["variants"]) == variants
        for figures in report[name]["variants"].values():
            assert figures["seconds"] > 0 and figures["cpu_seconds"] > 0 and figures["extra_mb"] >= 0
    printed = capsys.readouterr().out
    assert "circo: 5 queries on 70 images, up to 14 targets" in printed
    assert all(printed.count(f"\n{variant:20}") == 2 for variant in variants)
    ranking(circo=Size(5, 70, 14), only="circo", json=file, **tiny)
    assert "lasco" not in json.loads(file.read_text())
    with pytest.raises(ValueError, match=r"at least 1, got 0 \(threads\)"):
        ranking(width=8, threads=0)


def test_answers_are_few_for_most_queries() -> None:
    protocol = make_protocol(Size(800, 1000, 14))
    counts = [len(targets) for targets in protocol.targets]
    assert min(counts) == 1 and max(counts) == 14 and 3.5 < sum(counts) / len(counts) < 5


def test_the_full_sort_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.benchmarks.ranking.ELEMENTS", 60)  # three queries at a time
    protocol = make_protocol(Size(7, 20, 3))
    queries, gallery = torch.randn(7, 4).half(), torch.randn(20, 4).half()
    orders = torch.cat([order for order, _ in sorted_pieces(protocol, queries, gallery)])
    for query, order in zip(queries.double().numpy(), orders.tolist(), strict=True):
        cosines = [query @ image / np.linalg.norm(query) / np.linalg.norm(image) for image in gallery.double().numpy()]
        assert order == sorted(range(20), key=lambda image: -cosines[image])


def allocate(megabytes: int, features: Tensor) -> None:
    assert torch.ones(megabytes * 2**18).sum() + features.sum() > 0


@pytest.mark.parametrize("freed", [0, 500], ids=["nothing freed before", "500 MB freed before"])
def test_memory_is_what_is_taken_beyond_the_features(freed: int) -> None:
    pieces = [torch.ones(2**14) for _ in range(16 * freed)]  # small ones, which the C library keeps when they are freed
    pieces.clear()
    features = torch.ones(100 * 2**18)  # 100 MB that are there before
    small, large = (in_a_fork(allocate, (megabytes, features), 1)[2] for megabytes in (1, 200))
    assert small < 50 < 180 < large < 300


def fail(_: Tensor) -> None:
    raise SystemExit(1)


def test_a_process_that_ends_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="fail: the process ended without a result"):
        in_a_fork(fail, (torch.ones(1),), 1)


def test_our_scoring_takes_little_memory() -> None:
    """Beyond a copy of what is fed (3 MB), two parts of the scores (128 MB each): all of them would be 1,280 MB."""
    size = Size(8000, 40_000, 2)
    queries, gallery = torch.ones(size.queries, 32).half(), torch.ones(size.gallery, 32).half()
    assert in_a_fork(ours, (make_protocol(size), queries, gallery), 1)[2] < 400
