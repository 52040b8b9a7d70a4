"""What the Text-CC loss costs: the benchmark counts what is computed, and the costs are as small as they should be."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.module import ContextCIR
from experiments.benchmarks import step as benchmark
from experiments.benchmarks.flops import NoModules, count_flops
from experiments.benchmarks.workload import (
    BASELINE,
    CHUNK,
    PUBLISHED,
    PublishedWay,
    Recipe,
    Setting,
    random_triplets,
    recipes,
)
from experiments.command import command
from tests.helpers import tiny

OURS = "TextConceptConsistency"


def randomised(whole: type[ContextCIR] = ContextCIR, fusion: type = CrossAttentionFusion) -> ContextCIR:
    """At its zero initialisation, the fusion ignores the text."""
    torch.manual_seed(0)
    model = whole(tiny.backbone(), fusion=fusion, concept=TextConceptConsistency())
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def batch_of(size: int = 9):
    """More phrases than the published way reads at a time."""
    batch = random_triplets(size, 4, 32)
    assert 4 * size > CHUNK
    return batch._replace(
        query=batch.query._replace(reference=batch.query.reference.double()), target=batch.target.double()
    )


def test_the_published_way_reads_the_same_maps() -> None:
    ours, theirs, batch = randomised(), randomised(PublishedWay), batch_of()
    features = ours.encode_query(batch.query)
    expected = ConceptReading(ours.fusion, features).detached_maps()
    padded = theirs.fusion(features.image, theirs.encode_padded(batch.query.captions))
    found = theirs.maps(batch, padded.attention)
    for short, long in ((expected.context, found.context), (expected.isolated, found.isolated)):
        for a, b in zip(short, long, strict=True):
            rows = expected.alone if short is expected.isolated else slice(None)
            assert b.shape[-1] == 77 and a[rows].std() > 0.01
            torch.testing.assert_close(b[..., : a.shape[-1]], a[rows])
            assert (b[..., a.shape[-1] :] == 0).all()
    torch.testing.assert_close(theirs.concept.from_maps(found), ours.concept.from_maps(expected))


def test_the_published_way_has_the_same_losses_and_gradients() -> None:
    ours, theirs, batch = randomised(), randomised(PublishedWay), batch_of()
    losses = [model.losses(batch) for model in (ours, theirs)]
    assert losses[0]["concept"] > 0
    torch.testing.assert_close(losses[1], losses[0])
    for part in losses:
        part["loss"].backward()
    for (name, expected), found in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (expected.grad is None) == (found.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize("whole", [ContextCIR, PublishedWay])
@pytest.mark.parametrize("fusion", [CrossAttentionFusion, ConceptAttentionFusion])
def test_counting_without_computing_counts_what_is_computed(whole: type[ContextCIR], fusion: type) -> None:
    model, batch = randomised(whole, fusion), batch_of()
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        model.losses(batch)["loss"].backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert count_flops(lambda: model.losses(batch)["loss"], parameters) == counter.get_total_flops() > 1e8


def test_nothing_is_computed_while_counting() -> None:
    linear = torch.nn.Linear(30, 20)
    before = linear.weight.clone()

    def loss() -> torch.Tensor:
        result = linear(torch.ones(5, 30))
        assert (result == 0).all() and result.untyped_storage().nbytes() == 4
        return result.square().sum()

    assert count_flops(loss, [linear.weight, linear.bias]) == 2 * (2 * 5 * 30 * 20)
    assert torch.equal(linear.weight, before) and linear.weight.grad is None


def test_captions_and_phrases_have_the_lengths_they_are_said_to_have() -> None:
    query, tokenizer = random_triplets(500, 4, 1).query, tiny.tokenizer()
    lengths = tokenizer(query.captions).valid.sum(1)
    assert lengths.min() >= 21 and lengths.max() <= 31 and 24 < lengths.float().mean() < 26
    phrases = tokenizer.isolated(query.captions, query.phrases.owner, query.phrases.spans)
    assert set(tokenizer(phrases).valid.sum(1).tolist()) == {4, 5, 6}
    assert phrases[0] in query.captions[0] and phrases[0] == phrases[0].strip() and len(set(phrases)) > 1000
    assert [len(random_triplets(2, n, 1).query.phrases.owner) for n in (1, 6)] == [2, 12]


# The targets: operations of a step with the loss over those of one without, at 4 phrases per caption.
@pytest.mark.parametrize(
    ("model", "most"),
    [("ViT-B-32", 1.14), ("ViT-L-14", 1.07)],  # docs/step_cost.md has more of them
)
@pytest.mark.slow
def test_the_loss_is_nearly_free(model: str, most: float) -> None:
    found = benchmark.operations(Setting(model, 8, 4, "32"), recipes([TextConceptConsistency()]))
    assert 1.0 < found[OURS] / found[BASELINE] <= most
    assert found[PUBLISHED] / found[BASELINE] > 1.7  # of which a part is captions padded to 77 tokens
    if model == "ViT-B-32":
        assert found[PUBLISHED] / found[OURS] > 2.0


@pytest.mark.slow
def test_the_command_measures_every_variant(
    clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "step.md"
    flags = [f"--model=local-dir:{clip_folder}", "--batch=2", "--repeats=2", f"--markdown={file}", "--device=cpu"]
    flags += ["--fusion=contextcir.fusion.concept_attention.ConceptAttentionFusion"]
    monkeypatch.setattr("sys.argv", ["step", *flags, f"--losses+=contextcir.losses.text_cc.{OURS}"])
    command(benchmark.step)
    table = [line.split(" | ") for line in file.read_text().splitlines() if line.startswith("| ")]
    assert table.pop(1)[0] == "| ---"
    other = "ConceptAttentionFusion"
    names = ["step", BASELINE, OURS, f"{other}, {BASELINE}", f"{other}, {OURS}", PUBLISHED]
    assert [row[0].removeprefix("| ") for row in table] == names
    assert all(len(row) == 7 for row in table)
    ratios = [float(row[2]) for row in table[1:]]
    assert ratios[0] == 1.0 and ratios[1] > 1 and ratios[2] > 1 and ratios[3] > ratios[2] and ratios[4] > 1.5
    for row in table[1:]:
        assert float(row[3]) > 0 and float(row[6].strip(" |")) > 5  # seconds, MiB
    assert all("(" in row[4] and "(" in row[5] for row in table[2:])
    text = file.read_text()
    assert f"torch {torch.__version__}" in text and "1 thread" in text and f"The {PUBLISHED}, over ours: " in text
    assert text in capsys.readouterr().out


def test_counts_alone_run_nothing(clip_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("in_a_fork", "take_times"):
        monkeypatch.setattr(benchmark, name, None)
    flags = [f"--model=local-dir:{clip_folder}", "--batch=2", "--repeats=0", f"--markdown={tmp_path / 'step.md'}"]
    monkeypatch.setattr("sys.argv", ["step", *flags])
    command(benchmark.step)
    rows = (tmp_path / "step.md").read_text().splitlines()[4:7]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in (BASELINE, OURS, PUBLISHED)]
    assert rows[0].startswith(f"| {BASELINE} | 0.") and rows[0].endswith("| 1.000 |  |  |  |  |")


def test_losses_need_names_of_their_own_and_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="class of its own, got TextConcept.*, TextConcept"):
        recipes([TextConceptConsistency(), TextConceptConsistency(epsilon=0.1)])
    for wrong, words in (
        ({"threads": 0}, r"at least 1, got 0 .threads"),
        ({"repeats": -1}, "at least 0, got -1 .repeats"),
    ):
        with pytest.raises(ValueError, match=words):
            benchmark.step(**wrong)


def test_ratios_are_to_the_steps_right_before_and_after() -> None:
    times = iter([2.0, 5.0, 4.0, 8.0, 4.0])

    class Steps:
        def step(self, name: str) -> benchmark.Seconds:
            value = next(times)
            return benchmark.Seconds(value, value / 2)

    found = {name: benchmark.Measured(1) for name in (BASELINE, OURS, PUBLISHED)}
    benchmark.take_times(Steps(), found, 1)
    assert found[OURS].ratios("clock") == [5 / 3] and found[PUBLISHED].ratios("cpu") == [2.0]
    assert [seconds.clock for seconds in found[BASELINE].seconds] == [2.0, 4.0, 4.0]
    assert found[BASELINE].ratios("clock") == []
    assert isinstance(recipes([])[PUBLISHED], Recipe)
