"""What a run ran on: machine, versions and code, without paths and names of people or machines."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from experiments.command import processor

ENVIRONMENT_FILE = "environment.json"  # in the folder of a run, by command
PACKAGES = ("torch", "lightning", "open_clip_torch", "torchmetrics", "numpy")
PROJECT = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Return the machine's kind, the versions, the commit and the digest of the code."""
    return {"machine": machine(), "versions": versions(), "commit": commit(), "code": code_digest()}


def machine() -> str:
    """Return the CPU's name and cores, and the GPU's name where there is one."""
    import torch

    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{accelerator}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def commit() -> str | None:
    """Return the commit of the project's tree, marked where files differ from it; None outside of a repository."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=12", "--dirty=-changed", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()  # noqa: S603  (git of the user, no shell)
    except (OSError, subprocess.SubprocessError):
        return None


def code_digest() -> str:
    """Return a hash of all Python files that a run can use: they may have been edited since the commit."""
    digest = hashlib.sha256()
    for package in ("callbacks", "contextcir", "data_modules", "experiments"):
        for file in sorted((PROJECT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(PROJECT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
