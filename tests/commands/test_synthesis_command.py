"""The command line: stage by stage or all at once, over shards, and errors in one line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contextcir.files import stable_hash
from contextcir.synthesis.store import read_stage
from experiments.synthesize import ANSWERS_AWAITED, main
from tests.helpers.make_data import write_image
from tests.helpers.model_batches import run_batches
from tests.helpers.model_server import ModelServer
from tests.helpers.paths import PROJECT
from tests.helpers.scenes_flags import CONFIGS, draw
from tests.helpers.synthesis_flags import PAIRS, REQUESTS, flags
from tests.helpers.synthesis_model import asked

FILES = ["card.md", "samples.html", "train.jsonl", "val.jsonl"]


def error_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as failure:
        main(args)
    message = capsys.readouterr().err.splitlines()[-1]
    assert failure.value.code == 1 and message.startswith("error: ")
    return message


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "manifest").iterdir() if path.suffix == ".jsonl"}


def test_all_stages_in_one_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    main(flags(tmp_path, out, f"--model.log={log}"))
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "pairs", "describe-reference", "describe", "instruct", "filter", "write",
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "manifest").iterdir()) == FILES
    assert "48 in train, 12 in val" in told[-1] and "60 kept" in told[-2]
    assert len(asked(log)) == REQUESTS
    card = (out / "manifest" / "card.md").read_text()
    assert "60 triplets" in card and "val_share: 0.2" in card and "describe_target 1 " in card
    record = json.loads((out / "manifest" / "train.jsonl").read_text().splitlines()[0])
    assert record["phrases"][0]["text"] == "the cup"


def test_stages_by_themselves_over_shards_give_the_same(tmp_path: Path) -> None:
    main(flags(tmp_path, tmp_path / "whole"))
    parts, log = tmp_path / "parts", tmp_path / "log"
    for stage in ("pairs", "describe", "instruct", "filter", "write"):
        divided = stage in ("describe", "instruct", "filter")
        for index in range(3 if divided else 1):
            shard = [f"--shard={index}/3"] if divided else []
            main(flags(tmp_path, parts, f"--model.log={log}", f"--stage={stage}", *shard))
    assert contents(parts) == contents(tmp_path / "whole") and len(asked(log)) == REQUESTS
    assert len(list((parts / "describe").glob("*.jsonl"))) == 3


def test_a_spent_budget_ends_with_one_line_and_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(SystemExit) as ended:
        main(flags(tmp_path, out, "--model.budget=20", f"--model.log={log}"))
    assert ended.value.code == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("stopped: the budget of 1.00 is spent (describe: 5 done, ") and "continues" in line
    assert [len(list(read_stage(out, stage))) for stage in ("describe-reference", "describe")] == [15, 5]
    before = len(asked(log))
    main(flags(tmp_path, out, f"--model.log={log}"))
    assert len(asked(log)) <= REQUESTS + 4 and before < REQUESTS  # four were under way
    assert len(list(read_stage(out, "describe"))) == len(PAIRS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shard=3/3"], "expected I/N with I from 0 to N - 1, got '3/3' (--shard)"),
        (["--shard=0/2"], "a shard needs a stage"),
        (["--stage=write", "--shard=0/2"], "is not divided"),
        (["--stage=pairs", "--shard=1/2"], "without a shard (--shard)"),
        (["--stage=write"], "nothing to write"),
        (["--pairs.file=none.json"], "no file none.json (--pairs.file)"),
        (["--describe.reference_prompt=none.md"], "(--describe.reference_prompt)"),
        (["--write.val_share=1"], "(--write.val_share)"),
    ],
)
def test_an_error_is_one_line(more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in error_of(flags(tmp_path, tmp_path / "out", *more), capsys)


def test_the_command_is_imported_without_the_libraries_that_take_seconds() -> None:
    code = "import sys, experiments.synthesize as s; s.build_parser(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in re.findall(r"'([^']+)'", done.stdout)}
    assert "contextcir" in loaded
    assert not loaded & {"torch", "lightning", "open_clip", "transformers", "scipy", "stanza", "spacy", "openai"}


def describe(body: dict[str, Any]) -> dict[str, Any]:
    """Answer a request by the bytes of its images, or else with a text."""
    urls = re.findall(r"data:image/[^']+", repr(body))
    if urls:
        return {"objects": [{"object": "cup", "descriptors": [f"labelled {stable_hash(''.join(urls))}"]}]}
    return {"texts": [{"caption": f"Label the cup anew, way {n}.", "changes": ["label"]} for n in range(2)]}


def test_batch_files_carry_a_synthesis_over_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, batches = tmp_path / "out", tmp_path / "batches"
    for image in {image for pair in PAIRS for image in pair}:
        write_image(tmp_path / "photos" / image, image)
    model = ["--model=contextcir.synthesis.models.batch_files.BatchFiles", f"--model.folder={batches}"]
    args = flags(tmp_path, out, *model, "--model.chat.model=m", f"--images={tmp_path / 'photos'}")
    args += ["--duplicates.per_run=null"]
    with ModelServer(describe) as server:
        for _ in ("describe-reference", "describe", "instruct"):
            with pytest.raises(SystemExit) as stopped:
                main(args)
            assert stopped.value.code == ANSWERS_AWAITED
            assert "vllm run-batch" in capsys.readouterr().err.splitlines()[-1]
            assert run_batches(server, batches)
        main(args)
        assert len(server.asked) == REQUESTS and not server.paid_twice()
    assert "48 in train, 12 in val" in capsys.readouterr().out


def test_the_command_line_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.synthesize", *flags(tmp_path, tmp_path / "out", "--model.budget=5")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 3 and "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert re.search(r"describe-reference: .*\d+/15 ", done.stderr) and "items/s" in done.stderr


def test_the_config_for_scenes_makes_true_triplets(tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="needs spaCy, which finds the phrases")
    root, out = draw(tmp_path / "scenes"), tmp_path / "out"
    listed = json.loads((root / "captions" / "cap.scenes.val.json").read_text())
    sides = [[f"img_raw/val/{record[name]}.jpg" for name in ("reference", "target_hard")] for record in listed]
    pairs = [{"reference": reference, "target": target} for reference, target in sides]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    main(
        [
            f"--config={CONFIGS / 'synthesis' / 'scenes.yaml'}",
            f"--pairs.file={tmp_path / 'pairs.json'}",
            f"--images={root}",
            f"--model.root={root}",
            f"--out={out}",
        ]
    )
    files = (out / "manifest").glob("*.jsonl")
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(records) == len(listed)
    concepts = {(r["reference"], r["target"]): r["concepts"] for r in records}
    for pair, record in zip(pairs, listed, strict=True):
        assert concepts[pair["reference"], pair["target"]] <= record["concepts"]
