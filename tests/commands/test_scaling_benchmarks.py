"""The benchmark of large batches measures what it says; the plan is the arithmetic of counts and assumptions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contextcir.training.gradient_cache import GradientCache
from experiments.benchmarks import memory, plan
from experiments.benchmarks.flops import forward_flops
from experiments.benchmarks.plan import BATCH, Counts, Job, Machine, count
from experiments.command import command
from tests.helpers.gradient_cases import new_batch, new_model
from tests.helpers.paths import PROJECT

COUNTS = Counts(
    plain=2e12, cached=3e12, image=1e12, query=2e12, parameters=10**9, trained=8 * 10**8, embed=100, load=0.02
)


def number(text: str) -> float:
    return float(text.replace(",", "").split()[0])


@pytest.mark.parametrize("gpus", [1, 4, 16])
def test_a_plan_is_arithmetic(gpus: int) -> None:
    machine = Machine(teraflops=100, utilisation=0.5, node_link=100, network=10, latency=20, cores=5)
    job = Job(batch=32, rows=8, triplets=10_000, gallery=1000, queries=500)
    found = {name: number(value) for name, value in plan.plan(COUNTS, machine, job, gpus).items()}
    link = 10e9 if gpus > 8 else 100e9
    compute = 32 * 3e12 / 50e12
    late = 0 if gpus == 1 else gpus * 20e-6
    reduce = 2 * (gpus - 1) / gpus * 4 * 8e8 / link + late
    sent = 32 * gpus * (3 * 100 * 4 + 16)
    gather = (gpus - 1) / gpus * (sent + 2 * 32 * gpus * 3 * 100 * 4) / link + 3 * late
    step = compute + reduce + gather
    assert found["computing, s"] == pytest.approx(compute, abs=0.01)
    assert found["gradients reduced, 10^9 bytes"] == 3.2
    assert found["reduction, s"] == pytest.approx(reduce, abs=1e-3)
    assert found["embeddings gathered, 10^6 bytes"] == pytest.approx(sent / 1e6, abs=0.1)
    assert found["gathering, with the way back, s"] == pytest.approx(gather, abs=1e-4)
    assert found["step, s"] == pytest.approx(step, abs=0.01)
    assert found["of it communication"] == pytest.approx(100 * (reduce + gather) / step, abs=0.1)
    assert found["of these more than without gradient cache"] == 50
    assert found["block of logits, 10^6 bytes"] == pytest.approx(8 * 3 * 32 * gpus * 4 / 1e6, abs=0.1)
    assert found["weights, gradients and AdamW's state, per GPU, 10^9 bytes"] == pytest.approx(4 + 3 * 3.2, abs=0.1)
    assert found["images needed, per s and GPU"] == pytest.approx(64 / step, abs=1)
    assert found["images loaded, per s and GPU"] == 250
    assert found["step with that loader, s"] == pytest.approx(max(step, 64 / 250), abs=0.01)
    assert found["from kept pixels: images loaded, per s and GPU"] == 5 * 2390
    assert found["from kept pixels: cores needed, per GPU"] == pytest.approx(64 / step / 2390, abs=0.01)
    shards, nodes = min(gpus, 8), max(1, gpus // 8)
    gathered = 3 * 1 * (shards - 1) / shards * 4e9
    between = 2 * (nodes - 1) / nodes * 3.2e9 / shards / 10e9
    inside = (shards - 1) / shards * 3.2e9 / 100e9
    name = "in shards of a node: "
    assert found[f"{name}weights gathered in a step, 10^9 bytes"] == pytest.approx(gathered / 1e9, abs=0.1)
    expected = compute + gathered / 100e9 + inside + between + gather
    assert found[f"{name}step, nothing of it hidden, s"] == pytest.approx(expected, abs=0.01)
    state = (4e9 + 3 * 3.2e9) / shards + 3.2e9
    held = found[f"{name}weights, gradients and AdamW's state, per GPU, 10^9 bytes"]
    assert held == pytest.approx(state / 1e9, abs=0.1)
    assert found["steps of an epoch"] == 10_000 // (32 * gpus)
    assert found["evaluation, computing, s"] == pytest.approx((1000e12 + 2 * 500e12) / 50e12 / gpus, abs=0.01)
    assert found["evaluation, loading images, s"] == pytest.approx(1500 * 0.02 / 5 / gpus, abs=0.01)


def test_a_slow_loader_sets_the_pace() -> None:
    found = plan.plan(COUNTS, Machine(cores=1), Job(batch=64), 1)
    assert number(found["step with that loader, s"]) == pytest.approx(128 * 0.02, abs=0.01)
    assert number(found["cores needed, per GPU"]) > 1


@pytest.mark.slow
def test_counts_are_those_of_torch_and_the_cache_adds_one_forward_pass(clip_folder: Path) -> None:
    found = count(f"local-dir:{clip_folder}", 2, (64, 48), 3)
    model, batch = new_model("Text-CC", GradientCache(BATCH), torch.float32), new_batch(BATCH, torch.float32)
    forward = forward_flops(lambda: model.backbone.encode_image(batch.target))
    assert found.image == forward / BATCH > 0
    assert found.query > found.image and 1.2 < found.cached / found.plain < 1.5
    assert found.parameters >= found.trained > 1e6 and found.embed == 32 and 0 < found.load < 1


def test_assumptions_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive, got 0 \(machine\.network\)"):
        Machine(network=0)
    with pytest.raises(ValueError, match=r"must be at least 1, got 0 \(job\.batch\)"):
        Job(batch=0)
    with pytest.raises(ValueError, match=r"must be at least 1, got \[\] \(gpus\)"):
        plan.calculate(gpus=[])
    with pytest.raises(ValueError, match=r"must be at least 8, got \(7, 9\) \(image_size\)"):
        plan.calculate(image_size=(7, 9))


def test_the_plan_command_writes_a_column_for_each_number_of_gpus(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "plan.md"
    flags = [f"--model=local-dir:{clip_folder}", "--gpus=[1, 8, 64]", "--decoded=100", f"--markdown={file}"]
    monkeypatch.setattr("sys.argv", ["plan", *flags, "--machine.utilisation=0.3", "--job.batch=16"])
    command(plan.calculate)
    text = file.read_text()
    assert "utilisation 0.3" in text and "batch 16" in text and text in capsys.readouterr().out
    assert "| batch of all GPUs | 16 | 128 | 1,024 |" in text.splitlines()
    assert "Loading: 100 images per second and core" in text


@pytest.mark.slow
def test_the_memory_command_compares_both_ways(clip_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "memory.md"
    flags = [f"--model=local-dir:{clip_folder}", "--batches=[16, 128]", "--chunk=8", "--rows=16", "--device=cpu"]
    # in a process of its own: what this one has freed would serve the measured ones
    line = [sys.executable, "-m", "experiments.benchmarks.memory", *flags, f"--markdown={file}"]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert text in done.stdout and "chunks of 8 triplets" in text and "CPU ms per triplet" in text
    small, large = (line.strip("| ").split(" | ") for line in text.splitlines() if line[:4] in ("| 16", "| 12"))
    assert (small[0], large[0]) == ("16", "128") and small[1] == "0" and large[1] == "3"
    plain, cached = ([float(row[column]) for row in (small, large)] for column in (2, 3))
    assert plain[1] > plain[0] + 20 and cached[1] < plain[1] - 20
    assert cached[1] - cached[0] < 0.5 * (plain[1] - plain[0])
    assert all(float(row[column]) > 0 for row in (small, large) for column in (4, 5))


def invented(setting: memory.Setting, way: str, batch: int) -> memory.Measured:
    return memory.Measured(10.0 * batch if way == memory.PLAIN else 50.0 + batch / 100, 0.5)


def test_all_rows_at_once_are_left_out_where_they_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "train", invented)
    setting = memory.Setting("tiny", 2, 2, 1, 0, "cpu")
    found = memory.measure(setting, [40, 10, 20], limit=250.0)
    assert list(found[memory.PLAIN]) == [10, 20] and list(found[memory.CACHED]) == [10, 20, 40]
    text = memory.as_markdown(setting, found, 0.5)
    assert "| 40 | 20 | - | 50 | - | 500.0 |" in text and "50 to 50 MiB, 0.6 % apart" in text
    with pytest.raises(ValueError, match=r"at least 1, got \[0\] \(batches\)"):
        memory.memory(batches=[0])
