"""Every command on good inputs with mistakes in them: it ends with 0, or with one line that says what is wrong.

CIR_FUZZ_SECONDS is the time for a command (5 by default, 120 for a whole search); CIR_FUZZ_SEED begins another search.
"""

import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from contextcir.errors import LONGEST
from tests.helpers.make_convertible import HOTEL, make_hotel
from tests.helpers.make_data import make_cirr, write_json
from tests.helpers.mutations import worsened
from tests.helpers.scenes_flags import SIZE, configs, draw, on
from tests.helpers.synthesis_flags import CONFIG, PAIRS, write_pairs

SECONDS = float(os.environ.get("CIR_FUZZ_SECONDS", 5))
HANGS = 60  # seconds after which a command counts as hanging


class TimeIsUp(Exception):
    """Ends the search."""


class Fuzzed(NamedTuple):
    """A command with good inputs.

    Args:
        main: runs it on arguments.
        flags: arguments, with paths relative to the folder of the inputs.
        files: inputs to make worse, relative to that folder.
        fixed: flags that stay as they are: they would make the command work for hours, or elsewhere.
        says: words on standard output with which the command may end with 1 without an error.
    """

    main: Callable[[list[str]], object]
    flags: list[str]
    files: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    says: str = ""


def _check_data(folder: Path) -> Fuzzed:
    from experiments.check_data import main

    make_cirr(folder / "cirr")
    files = tuple(f"cirr/captions/cap.rc2.{split}.json" for split in ("train", "val", "test1"))
    more = ("cirr/image_splits/split.rc2.val.json", "cirr/img_raw/dev/val-0-0-img0.png")
    flags = ["cirr", "--root=cirr", "--split=val", "--json", "--workers=1"]
    return Fuzzed(main, flags, (*files, *more), ("--workers",), '"ok": false')


def _phrases(folder: Path) -> Fuzzed:
    from experiments.phrases.__main__ import main

    (folder / "a.txt").write_text("Show the dog\nA red cup and two men\n", encoding="utf-8")
    write_json(folder / "b.json", [{"reference": "a.jpg", "target": "b.jpg", "caption": "the cup"}])
    parser = "--parser=tests.helpers.word_parser.WordParser"
    flags = ["--captions", "a.txt", "b.json", parser, "--parser.most=3", "--out=bank", "--batch=4", "--shard=0/1"]
    return Fuzzed(main, flags, ("a.txt", "b.json"), ("--captions",))


def _submission(folder: Path) -> Fuzzed:
    from experiments.submission import main

    make_cirr(folder / "cirr")
    lists = {
        f"{1000 + 10 * s + q}": [f"val-{s}-0-img{m}" for m in range(6) if m != q] for s in (0, 1) for q in range(3)
    }
    write_json(folder / "sub.json", {"version": "rc2", "metric": "recall", **lists})
    flags = ["validate", "cirr", "sub.json", "--annotations=cirr", "--split=val"]
    return Fuzzed(main, flags, ("sub.json", "cirr/captions/cap.rc2.val.json"), (), "INVALID")


def _synthesize(folder: Path) -> Fuzzed:
    from experiments.synthesize import main

    (folder / "synthesis.yaml").write_text(CONFIG)
    write_pairs(folder / "pairs.json", PAIRS[:6])
    flags = ["--config=synthesis.yaml", "--pairs.file=pairs.json", "--out=out", "--seed=3"]
    return Fuzzed(main, flags, ("synthesis.yaml", "pairs.json"))


def _convert(folder: Path) -> Fuzzed:
    from experiments.convert import main

    make_hotel(folder / "hotel")
    flags = ["hotel", "--root=hotel", "--split=train", "--out=out.jsonl", "--skip-broken"]
    return Fuzzed(main, flags, (f"hotel/{HOTEL}",))


def _study(folder: Path) -> Fuzzed:
    from experiments.study.__main__ import main

    content = {
        "title": "it",
        "configs": ["base.yaml", "scenes.yaml"],
        "overrides": {"trainer.max_steps": 6},
        "factors": {"loss": {"none": {"model.concept": None}, "a": {}}},
        "seeds": [1, 2],
        "reference": {"loss": "none"},
        "tune": {"metric": "val.composed.recall_at_1", "seeds": [7], "settings": [{}, {"model.optimizer.lr": 0.1}]},
        "metrics": {"By": {"R@1": "test.composed.recall_at_1"}},
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Fuzzed(main, ["it.yaml", "--out=out", "--jobs=1", "--list=true"], ("it.yaml",), ("--list",))


def _sweep(folder: Path) -> Fuzzed:
    from experiments.sweep import main

    content = {
        "method": "random",
        "metric": {"name": "val_recall_at_1", "goal": "maximize"},
        "command": ["python", "-m", "experiments.run", "fit", "--config=base", "--config=scenes", "${args}"],
        "parameters": {
            "model.optimizer.lr": {"min": 1.0e-5, "max": 1.0e-3, "distribution": "log_uniform_values"},
            "data.batch_size": {"values": [8, 16]},
        },
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Fuzzed(main, ["it.yaml", "--count=2", "--seed=0"], ("it.yaml",))


def _scenes(folder: Path) -> Fuzzed:
    from experiments import scenes

    def main(args: list[str]) -> None:
        old, sys.argv = sys.argv, ["scenes", *args]
        try:
            scenes.main()
        finally:
            sys.argv = old

    draw(folder / "scenes")
    size = [f"--size.{name}={value}" for name, value in vars(SIZE).items()]
    files = ("scenes/captions/cap.scenes.val.json", "scenes/scenes.json")
    fixed = tuple(flag.partition("=")[0] for flag in size)
    there = tuple(name for name in files if (folder / name).is_file())
    return Fuzzed(main, ["--root=scenes", "--seed=0", "--workers=1", *size], there, (*fixed, "--workers"))


def _run(folder: Path) -> Fuzzed:
    from experiments.failures import one_line_errors
    from experiments.run import main
    from tests.helpers import tiny

    def run(args: list[str]) -> None:
        with one_line_errors():
            main(args)

    draw(folder / "scenes")
    tiny.clip_folder(folder / "clip")
    (folder / "more.yaml").write_text(
        "trainer:\n  max_steps: 2\n  log_every_n_steps: 1\nmodel:\n  optimizer:\n    lr: 0.001\n"
    )
    kept = ["--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    flags = ["fit", *configs("base", "scenes"), "--config=more.yaml", *on(Path("scenes")), *kept, *quiet]
    flags += ["--model.backbone.model=local-dir:clip", "--model.backbone.pretrained=null", "--trainer.fast_dev_run=1"]
    files = (
        "more.yaml",
        "scenes/captions/cap.scenes.val.json",
        "clip/open_clip_config.json",
        "clip/open_clip_model.safetensors",
    )
    return Fuzzed(run, flags, files, ("--data.num_workers", "--trainer.fast_dev_run", "--data.root"))


def _search(folder: Path) -> Fuzzed:
    from experiments.search.__main__ import main
    from tests.helpers import tiny
    from tests.helpers.photos import save

    tiny.clip_folder(folder / "clip")
    for number in range(4):
        save(folder / "photos" / f"{number}.png", number)
    flags = ["index", "photos", "--model=clip", "--out=photos.index", "--workers=0", "--device=cpu", "--json=r.json"]
    files = ("photos/0.png", "clip/open_clip_config.json", "clip/open_clip_model.safetensors")
    return Fuzzed(main, flags, files, ("--workers",))


def _search_query(folder: Path) -> Fuzzed:
    from experiments.search.__main__ import main

    made = _search(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        main(made.flags)
    finally:
        os.chdir(before)
    flags = ["query", "photos.index", "--model=clip", "--image=photos/0.png", "--text=a red dog", "--k=3"]
    flags += ["--since=2020", "--balance=0.3", "--html=a.html", "--json=b.json", "--device=cpu"]
    return Fuzzed(main, flags, ("photos/0.png", "photos.index/about.json", "photos.index/photos.sqlite"))


COMMANDS = {
    "check_data": _check_data,
    "phrases": _phrases,
    "submission": _submission,
    "synthesize": _synthesize,
    "convert": _convert,
    "study": _study,
    "sweep": _sweep,
    "scenes": _scenes,
    "run": _run,
    "search index": _search,
    "search query": _search_query,
}


class Hangs(BaseException):
    """A command took longer than any of these may."""


@contextmanager
def alarm() -> Iterator[list[int]]:
    """Interrupt what takes too long; the list is empty if nothing did."""
    rung: list[int] = []

    def ring(*_: object) -> None:
        rung.append(1)
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS)
    try:
        yield rung
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(status: object, said: str, printed: str, words: str) -> str | None:
    """Return what is wrong with the end of a command."""
    lines = said.strip().splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    if "Traceback" in said:
        return "a traceback"
    if status in (0, None):
        return f"an error and status 0: {told}" if told else None
    if status == 1 and words and words in printed and not told:
        return None
    if status not in (1, 2):
        return f"status {status}"
    if len(told) != 1 or lines[-1] != told[0]:
        return f"{len(told)} errors"
    if len(told[0]) > LONGEST or not told[0].isprintable():
        return "no printable line of at most 300 characters"
    return None


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, work = tmp_path / "good", tmp_path / "work"
    good.mkdir()
    command = COMMANDS[name](good)
    for variable, value in {
        "CIR_RUNS": str(tmp_path / "runs"),
        "WANDB_RUN_ID": "id1",
        "XDG_CACHE_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("NOT_THERE", raising=False)
    monkeypatch.delenv("CIR_TRACEBACK", raising=False)
    end = time.monotonic() + SECONDS
    kept: dict[str, str] = {}

    @settings(
        max_examples=10**6 if SECONDS > 5 else 2000,
        deadline=None,
        database=None,
        derandomize="CIR_FUZZ_SEED" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64))
    def search(number: int) -> None:
        if time.monotonic() > end:
            raise TimeIsUp
        os.chdir(tmp_path)  # the folder of the last example goes
        args = worsened(Random(number), good, work, command.files, command.flags, command.fixed)
        os.chdir(work)
        said, printed, status = io.StringIO(), io.StringIO(), 0
        with alarm() as rung, redirect_stderr(said), redirect_stdout(printed):
            try:
                command.main(args)
            except SystemExit as ended:
                status = ended.code
            except Hangs:
                pass
            except BaseException as error:
                said.write(f"Traceback: {type(error).__name__}: {error}")
        wrong = "it hangs" if rung else judge(status, said.getvalue(), printed.getvalue(), command.says)
        if wrong:
            kept.setdefault(f"{wrong} {said.getvalue()[-60:]}", f"{wrong}: {args}\n    {said.getvalue()[-1500:]}")

    if "CIR_FUZZ_SEED" in os.environ:
        search = seed(int(os.environ["CIR_FUZZ_SEED"]))(search)
    here = Path.cwd()
    try:
        with suppress(TimeIsUp):  # else hypothesis would go on making examples
            search()
    finally:
        os.chdir(here)
        shutil.rmtree(work, ignore_errors=True)
    assert not kept, f"{len(kept)} faults of {name}:\n" + "\n".join(kept.values())
