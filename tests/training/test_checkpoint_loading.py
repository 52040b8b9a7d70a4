"""Checkpoints given to a Trainer, the command line and `load`: nothing is run, and every misfit is one line."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import contextcir
from callbacks import AtomicCheckpoints
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.pretrained import Source
from contextcir.errors import InputError
from contextcir.training.module import ContextCIR
from data_modules import CIRR
from experiments.failures import one_line_errors
from experiments.run import main
from tests.helpers import paths, tiny
from tests.helpers.make_data import make_cirr
from tests.helpers.weights_files import Runs, bad_files, flip, saved

CONFIGS = [f"--config={paths.CONFIGS / name}.yaml" for name in ("base", "cirr_b32")]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a checkpoint that makes the folder ``ran`` when it is unpickled."""
    (tmp_path / "web").mkdir()
    saved(tmp_path / "web" / "x.ckpt", {"state_dict": Runs(tmp_path / "ran")})
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.ckpt"
    server.shutdown()
    server.server_close()


class Nothing(ContextCIR):
    """Needs no data."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_start(self) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        logger=False,
        accelerator="cpu",
        max_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


@pytest.mark.parametrize("plugins", [[], [AtomicCheckpoints()]], ids=["bare", "atomic"])
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_trainer_runs_nothing_that_a_checkpoint_holds(
    stage: str, plugins: list[Any], address: str, tmp_path: Path
) -> None:
    data = DataLoader(torch.zeros(1))
    for given in (address, tmp_path / "web" / "x.ckpt"):
        for weights_only in (None, False):
            with pytest.raises(InputError, match=r"got the address|could run code"):
                run = getattr(trainer(tmp_path, plugins=plugins), stage)
                run(Nothing(tiny.backbone()), data, ckpt_path=given, weights_only=weights_only)
    assert not (tmp_path / "ran").exists()


def test_loading_a_model_runs_nothing(address: str, tmp_path: Path) -> None:
    for given in (address, tmp_path / "web" / "x.ckpt"):
        for load in (contextcir.load, ContextCIR.load_from_checkpoint, CIRR.load_from_checkpoint):
            with pytest.raises(InputError, match=r"got the address|could run code"):
                load(given)
        with pytest.raises(InputError):
            ContextCIR.load_from_checkpoint(given, weights_only=False, backbone=tiny.backbone())
    with pytest.raises(InputError, match="no settings to build a model from"):
        ContextCIR.load_from_checkpoint(saved(tmp_path / "bare.ckpt", tiny.clip().state_dict()))
    assert not (tmp_path / "ran").exists()


def test_weights_alone_can_be_evaluated_but_not_gone_on_from(tmp_path: Path) -> None:
    model = ContextCIR(tiny.backbone(seed=7))
    state = model.state_dict()
    for content in (state, {"state_dict": state}, {f"_orig_mod.{name}": value for name, value in state.items()}):
        file = saved(tmp_path / "a.ckpt", content)
        loaded = Nothing(tiny.backbone(seed=8))
        trainer(tmp_path).validate(loaded, DataLoader(torch.zeros(1)), ckpt_path=file)
        assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
        with pytest.raises(InputError, match=r"no optimizer_states.*model.backbone.pretrained"):
            trainer(tmp_path).fit(loaded, DataLoader(torch.zeros(1)), ckpt_path=file)
    for change, words in (("nan", "not finite"), ("extra", "head.x is unknown"), ("flip", "damaged")):
        broken = {**state, "head.x": torch.ones(1)} if change == "extra" else dict(state)
        if change == "nan":
            broken["backbone.clip.visual.proj"] = torch.full((64, 32), torch.inf)
        file = saved(tmp_path / "b.ckpt", {"state_dict": broken})
        if change == "flip":
            flip(file)
        with pytest.raises(InputError, match=words):
            trainer(tmp_path).validate(loaded, DataLoader(torch.zeros(1)), ckpt_path=file)


@pytest.fixture
def flags(small: list[str], runs: Path, tmp_path: Path) -> list[str]:
    make_cirr(tmp_path / "cirr")
    few = ["--data.batch_size=2", "--trainer.logger=false", "--trainer.callbacks=null", "--trainer.fast_dev_run=1"]
    return [*CONFIGS, *small, f"--data.root={tmp_path / 'cirr'}", *few]


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as failure, one_line_errors():
        main(list(args))
    assert failure.value.code in (1, 2)
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_command_line_takes_weights_and_refuses_the_rest_in_one_line(
    flags: list[str], address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = []
    monkeypatch.setattr(Source, "fill", lambda source, clip: filled.append(source))
    model = main(["validate", *flags]).model
    assert len(filled) == 1, "without a checkpoint, the encoders' own weights are loaded"
    state = {name: value + 0.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    file = saved(tmp_path / "bare.ckpt", {"state_dict": state})
    for stage in ("validate",):
        scored = main([stage, *flags, f"--ckpt_path={file}"]).model
        assert len(filled) == 1, "weights that the checkpoint replaces are not loaded"
        assert all(torch.equal(value, state[name]) for name, value in scored.state_dict().items())
    assert "to go on from: fit needs a resume point" in told(capsys, "fit", *flags, f"--ckpt_path={file}")
    files, names = bad_files(tmp_path, state, tmp_path / "ran"), ("code", "NaN")
    bad = {name: files[name] for name in names}
    cases = {"address": (address, "got the address"), **{name: (str(path), word) for name, (path, word) in bad.items()}}
    for name, (given, word) in cases.items():
        message = told(capsys, "test" if name == "address" else "validate", *flags, f"--ckpt_path={given}")
        assert word in message and "--ckpt_path" in message, name
        assert message.startswith("error: ") and len(message) < 300 + len(str(tmp_path)), name
    other = saved(tmp_path / "other.ckpt", tiny.clip().state_dict())
    assert "does not fit the model" in told(capsys, "validate", *flags, f"--ckpt_path={other}")
    assert not (tmp_path / "ran").exists()


def test_a_backbone_says_what_its_weights_are_even_when_they_are_replaced(clip_folder: Path) -> None:
    assert OpenCLIPBackbone(f"local-dir:{clip_folder}", "random").pretrained == "random"
