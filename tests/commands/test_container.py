"""The Dockerfile: linted, and made of what is there. No image is built here."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

LINES = re.sub(r"\\\n\s*", "", (PROJECT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line and not line.startswith("#")]


def steps(kind: str) -> list[str]:
    return [text for name, text in STEPS if name == kind]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint has no package for this system; CI's Linux on x86-64 runs it")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    faulty = subprocess.run([hadolint, "-"], input="FROM python\nRUN cd /\n", capture_output=True, text=True)
    assert faulty.returncode != 0  # so that it lints at all


def test_the_image_holds_all_that_the_project_runs_on_and_nothing_else() -> None:
    first, *allowed, last = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert first == "*" and last == "**/__pycache__" and steps("COPY") == ["--chown=${UID}:${GID} . ."]
    names = {line.removeprefix("!") for line in allowed}
    assert all((PROJECT / name).exists() for name in names)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    read = {"Makefile", "pyproject.toml", "requirements.lock", project["project"]["readme"]}
    assert names == packages | read | set(project["project"]["license-files"])


def test_its_commands_are_targets_of_make_and_run_without_root_rights() -> None:
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (command,) = steps("CMD")
    assert json.loads(command) == ["make", "demo"] and "demo" in targets
    (built,) = [text for text in steps("RUN") if "make install" in text]
    assert built.endswith('make install ${TORCH:+TORCH="${TORCH}"}') and "install" in targets
    assert steps("ARG") == ['TORCH=""', "UID=1000", "GID=1000"] and steps("USER") == ["${UID}"]
    kinds = [kind for kind, _ in STEPS]
    assert kinds.index("USER") < kinds.index("COPY") < kinds.index("CMD")
