"""Checkpoints are written whole or not at all, a damaged one is passed over, and only the newest are kept."""

import os
import random
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import AtomicCheckpoints, ResumePoints
from callbacks.checkpoint_files import newest_whole, other_files, resume_files
from callbacks.checkpoints import newest_checkpoint
from contextcir.errors import InputError
from contextcir.weights import damage
from experiments.benchmarks.resume import resume as measure

STATE = {"weights": torch.arange(50_000.0), "step": 3}


class Four(BoringModel):
    """Trains on 4 batches an epoch."""

    def __init__(self) -> None:
        LightningModule.__init__(self)
        self.layer = torch.nn.Linear(32, 2)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.randn(4, 32))


def fit(folder: Path, points: ResumePoints, steps: int, every: int = 50, **options: object) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        log_every_n_steps=every,
        limit_val_batches=0,
        callbacks=[points],
        plugins=[AtomicCheckpoints()],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Four(), **options)
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_checkpoint_is_read_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    files = AtomicCheckpoints()
    for _ in range(2):  # in a folder that is not there yet, and over what is
        files.save_checkpoint(STATE, tmp_path / "new" / "a.ckpt")
    assert names(tmp_path / "new") == ["a.ckpt"] and damage(tmp_path / "new" / "a.ckpt") is None
    found = files.load_checkpoint(tmp_path / "new" / "a.ckpt")
    assert found["step"] == 3 and torch.equal(found["weights"], STATE["weights"])


@pytest.mark.parametrize("room", [0, 1000, 150_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_is_told_in_one_line(room: int, tmp_path: Path) -> None:
    path, files = tmp_path / "a.ckpt", AtomicCheckpoints()
    files.save_checkpoint(STATE, path)
    content = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        with pytest.raises(InputError) as caught:
            files.save_checkpoint(STATE | {"step": 4}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    message = str(caught.value)
    assert str(path) in message and "File too large" in message and "\n" not in message
    assert path.read_bytes() == content and names(tmp_path) == ["a.ckpt"]


def test_a_kill_while_saving_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, files = tmp_path / "a.ckpt", AtomicCheckpoints()
    files.save_checkpoint(STATE, path)
    content = path.read_bytes()
    pid = os.fork()
    if not pid:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing has its name yet
        files.save_checkpoint(STATE | {"step": 4}, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == content
    files.save_checkpoint(STATE | {"step": 5}, path)  # over what the kill has left
    assert names(tmp_path) == ["a.ckpt"] and files.load_checkpoint(path)["step"] == 5


def test_damage_is_seen_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "resume-step=1.ckpt"
    AtomicCheckpoints().save_checkpoint(STATE, path)
    content, draw = path.read_bytes(), random.Random(0)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert damage(path)
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert damage(path)
    start = content.index(STATE["weights"].numpy().tobytes())
    for _ in range(5):
        place = start + draw.randrange(200_000)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "checksum" in damage(path) or "CRC" in damage(path)


def test_the_newest_whole_one_is_taken_with_a_warning_that_names_both(tmp_path: Path) -> None:
    for step in (8, 9, 10):
        AtomicCheckpoints().save_checkpoint(STATE, tmp_path / f"resume-step={step}.ckpt")
    files = resume_files(tmp_path)
    assert [file.name for file in files] == [f"resume-step={step}.ckpt" for step in (10, 9, 8)]
    assert newest_whole(files) == files[0]
    os.truncate(files[0], 5000)
    with pytest.warns(UserWarning, match=r"step=10.ckpt is damaged \(.*\): taking the one before, .*step=9.ckpt"):
        assert newest_whole(files) == files[1]
    for file in files[1:]:
        os.truncate(file, 5000)
    with pytest.warns(UserWarning, match="none before it: starting anew"):
        assert newest_whole(files) is None


def test_the_newest_are_kept_with_a_link_to_the_last(tmp_path: Path) -> None:
    points = ResumePoints(tmp_path / "c", every_n_train_steps=2)
    trainer = fit(tmp_path, points, 7)
    assert names(tmp_path / "c") == ["last.ckpt", "resume-step=6.ckpt", "resume-step=7.ckpt"]
    assert os.readlink(tmp_path / "c" / "last.ckpt") == "resume-step=7.ckpt"
    assert newest_checkpoint(trainer) == tmp_path / "c" / "resume-step=7.ckpt"
    assert other_files([tmp_path / "c"]) == []


def test_a_run_that_is_taken_back_forgets_its_later_checkpoints(tmp_path: Path) -> None:
    trainer = fit(tmp_path, ResumePoints(tmp_path / "c", every_n_train_steps=2), 9)
    early = tmp_path / "early.ckpt"
    early.write_bytes((tmp_path / "c" / "resume-step=8.ckpt").read_bytes())
    AtomicCheckpoints().save_checkpoint(STATE, tmp_path / "c" / "resume-step=20.ckpt")
    trainer = fit(tmp_path, ResumePoints(tmp_path / "c", every_n_train_steps=2), 11, ckpt_path=early)
    assert names(tmp_path / "c") == ["last.ckpt", "resume-step=10.ckpt", "resume-step=11.ckpt"]
    assert newest_checkpoint(trainer).name == "resume-step=11.ckpt"


def test_time_makes_checkpoints_too(tmp_path: Path) -> None:
    fit(tmp_path, ResumePoints(tmp_path / "c", every_minutes=0, keep=9), 5, every=2)
    assert names(tmp_path / "c") == ["last.ckpt", *(f"resume-step={step}.ckpt" for step in (2, 4, 5))]


def test_impossible_numbers_are_told() -> None:
    with pytest.raises(ValueError, match=r"from 1 on, got 0 \(trainer.callbacks.ResumePoints.keep\)"):
        ResumePoints("folder", keep=0)
    with pytest.raises(ValueError, match=r"from 1 on, got 0 \(trainer.callbacks.ResumePoints.every_n_train_steps\)"):
        ResumePoints("folder", every_n_train_steps=0)


def test_what_it_costs_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(tmp_path, parameters=2000, times=1)
    text = capsys.readouterr().out
    assert "0.00 million" not in text and len(re.findall(r"\| [0-9.]+ \|\n", text)) == 4 and not names(tmp_path)
