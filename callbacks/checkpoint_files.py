"""Checkpoints as files: written whole or not at all, and checked before one is resumed."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from contextcir.errors import InputError
from contextcir.weights import damage, read_weights

RESUME = re.compile(r"resume-step=(\d+)\.ckpt")
PART = ".part"


class AtomicCheckpoints(TorchCheckpointIO):
    """Write a checkpoint under a temporary name in the same folder, flush it to disk, and rename it then.

    Lightning writes to memory or to the system's temporary folder, and copies the file to another disk: a kill or a
    full disk during the copy leaves half of it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            InputError: if it can't be written; a file that was at ``path`` is still there.
        """
        path = Path(path)
        part = path.with_name(path.name + PART)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer may hide the one behind the other
            reason = first_cause(error)
            part.unlink(missing_ok=True)
            raise InputError(
                f"this checkpoint can't be written ({reason}): what was saved before is still there; make room, or "
                "name another disk, and start the same command again",
                file=path,
                setting="trainer.default_root_dir",
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load a checkpoint, onto the CPU: a file on this machine, of which nothing is run.

        Raises:
            MissingFileError: if there is none.
            InputError: if it is no checkpoint, or damaged.
        """
        return read_weights(path, "ckpt_path", mapped=False).content


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_cause(error: BaseException) -> str:
    """Return the cause of an error in one line, in the words of the operating system where there are any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return " ".join(str(error).split())[:200]


def resume_files(folder: Path) -> list[Path]:
    """Return the resume points in a folder, the one of the last step first."""
    points = [(int(match[1]), file) for file in _files(folder) if (match := RESUME.fullmatch(file.name))]
    return [file for _, file in sorted(points, reverse=True)]


def other_files(folders: Iterable[Path]) -> list[Path]:
    """Return all other checkpoints of some folders, the last modified first; links are left out."""
    checkpoints = {
        file.resolve(): file
        for folder in folders
        for file in _files(folder)
        if file.suffix == ".ckpt" and not RESUME.fullmatch(file.name) and not file.is_symlink()
    }
    return sorted(checkpoints.values(), key=lambda file: file.stat().st_mtime_ns, reverse=True)


def newest_whole(files: Iterable[Path]) -> Path | None:
    """Return the first intact file, with a warning about the damaged ones before it; None if there is none."""
    broken = []
    for file in files:
        reason = damage(file)
        if reason is None:
            for other, why in broken:
                rank_zero_warn(f"checkpoint {other} is damaged ({why}): taking the one before, {file}")
            return file
        broken.append((file, reason))
    for other, why in broken:
        rank_zero_warn(f"checkpoint {other} is damaged ({why}), and there is none before it: starting anew")
    return None


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
