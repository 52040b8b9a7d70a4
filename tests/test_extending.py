"""The files of docs/extending.md: each does what the page says."""

import importlib
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.encoders import ImageFeatures, TextFeatures, Widths
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.protocol import Protocol
from contextcir.fusion import Sum
from contextcir.losses.maps import ConceptReading
from contextcir.synthesis.filters.base import Candidate
from contextcir.synthesis.records import Instruction
from experiments.run import main
from tests.helpers import tiny
from tests.helpers.gradient_cases import gradients, new_batch
from tests.helpers.paths import PROJECT

TEXT = (PROJECT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
KINDS = ("fusion", "loss", "metric", "benchmark", "embedder", "filter", "callback")
RUNS = re.findall(r"^    python -m experiments\.run (.*)$", TEXT, re.MULTILINE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a file of the page by its name."""
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield importlib.import_module
    for name in FILES:
        sys.modules.pop(name, None)


def test_the_page_has_a_file_of_each_kind() -> None:
    assert sorted(FILES) == sorted(f"my_{kind}" for kind in KINDS)
    assert len(RUNS) == 4


@pytest.mark.parametrize("line", RUNS)
def test_its_runs_are_parsed(line: str, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(line), "--print_config"])
    told = capsys.readouterr()
    assert ended.value.code in (0, None) and re.search(r"my_\w+\.", told.out), told.err


def test_the_gate_begins_at_the_sum_and_is_trained(page: Any) -> None:
    widths, generator = Widths(8, 8, 8), torch.Generator().manual_seed(0)
    image = ImageFeatures(torch.zeros(3, 1, 8), torch.randn(3, 8, generator=generator))
    text = TextFeatures(
        torch.zeros(3, 1, 8), torch.ones(3, 1, dtype=torch.bool), torch.randn(3, 8, generator=generator)
    )
    gated = page("my_fusion").GatedSum(widths)
    torch.testing.assert_close(gated(image, text).embedding, Sum(widths)(image, text).embedding)
    gated(image, text).embedding.square().sum().backward()
    assert gated.gate.weight.grad.abs().sum() > 0


def test_the_entropy_of_a_map_is_that_of_its_shares(page: Any) -> None:
    from contextcir.training.module import ContextCIR

    loss = page("my_loss").SharpAttention(weight=1.0)
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), concept=loss)
    batch = new_batch(4, torch.float32)
    found = gradients(model, batch)
    query = batch.query
    features: QueryFeatures = model.compose(
        model.backbone.encode_image(query.reference), query.captions, query.phrases, query.clauses
    )
    maps, counted = ConceptReading(model.fusion, features, batch.reference_id).in_context()
    expected = []
    for row in maps[counted].tolist():
        shares = [share / sum(row) for share in row]
        expected.append(-sum(share * math.log(share) for share in shares))
    assert found["(concept)"].item() == pytest.approx(np.mean(expected), rel=1e-4) and expected


def test_the_metric_is_one_over_the_rank(page: Any) -> None:
    metric = page("my_metric").ReciprocalRank()
    protocol = Protocol(
        benchmark="toy",
        split="val",
        gallery=tuple(map(str, range(6))),
        query_ids=(0, 1),
        targets=((0,), (3, 4)),
        references=(-1, -1),
        exclude_reference=False,
        metrics=(metric,),
        headline=metric.name,
    )
    scored = CompositionMetric(protocol)
    scored.update_gallery(torch.arange(6), torch.eye(6))
    scored.update_queries(torch.arange(2), torch.arange(6, 0, -1).float().expand(2, -1))  # ranks images in their order
    assert scored.compute()["composed"][metric.name] == pytest.approx(100 * (1 + 1 / 4) / 2)


def test_the_benchmark_is_read_and_scored(page: Any, tmp_path: Path) -> None:
    (tmp_path / "shop/photos").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"shop/photos/{name}.png")
    for split in ("train", "val"):
        (tmp_path / f"shop/{split}.csv").write_text("a,in red,b\nb,larger,c\n")
    size = {"preprocess": lambda image: torch.zeros(3, 4, 4), "batch_size": 2, "num_workers": 0}
    data = page("my_benchmark").Shop(str(tmp_path / "shop"), **size)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.query.captions in (["in red", "larger"], ["larger", "in red"])
    (protocol,) = data.protocols("val")
    assert protocol.targets == ((1,), (2,)) and protocol.references == (0, 1)


def test_the_embedder_embeds(page: Any) -> None:
    embedder = page("my_embedder").MeanColour()
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert embedder.embed_query(images, [None, "x"]).tolist() == [[255, 0, 0], [0, 0, 255]]
    assert embedder.describe()["dimension"] == 3


def test_the_filter_rejects_colours(page: Any) -> None:
    texts = [Instruction(f"p#{n}", "p", text, 1) for n, text in enumerate(["a red cup", "a larger cup"])]
    judged = page("my_filter").NoColours(["Red"]).judge([Candidate(text, None, None) for text in texts])
    assert [finding.reason for finding in judged] == ["names a colour", None]


def test_the_callback_tells_the_figure(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Run:
        is_global_zero, global_step, callback_metrics = True, 7, {"headline": torch.tensor(41.5)}

    page("my_callback").Announce().on_validation_epoch_end(Run(), None)
    assert capsys.readouterr().out == "step 7: 41.50 %\n"
