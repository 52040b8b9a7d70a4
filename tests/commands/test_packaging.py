"""The project as others install it: what it declares, what its wheel holds, and that it runs from anywhere."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import PROJECT

PACKAGES = ("contextcir", "data_modules", "callbacks", "experiments")
TOP = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "requirements.lock")
EXTRAS = (
    "fastapi",
    "uvicorn",
    "openai",
    "httpx2",
    "jsonschema",
    "py3langid",
    "faiss",
    "imagehash",
    "transformers",
    "sentence_transformers",
    "spacy",
    "pillow_heif",
    "qdrant_client",
)


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command outside of the checkout, and return what it prints."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source_files() -> dict[str, Path]:
    """Return the file of each module of the packages."""
    files = {}
    for package in PACKAGES:
        for file in (PROJECT / package).rglob("*.py"):
            files[".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")] = file
    return files


def imported_with(node: ast.AST) -> Iterator[str]:
    """Return the packages that a module imports when it is imported itself: not in a function, not for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").split(".")[0]
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from () if types_only else imported_with(child)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel, built in a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("build")
    for name in TOP:
        shutil.copyfile(PROJECT / name, folder / name)
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ("--quiet", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", "dist", ".", folder=folder)
    (file,) = (folder / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment into which the wheel was installed.

    PyTorch and the others are read from this environment by a path file, since to install 5 GB takes minutes and a
    network. Path files of this environment are not followed, so the checkout is out of reach even where it is
    installed as editable.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, folder=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_imports_are_what_the_project_declares():
    """Nothing that comes only by way of another package, and nothing declared in vain."""
    run(Path(sys.executable).with_name("deptry"), ".", folder=PROJECT)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_can_be_imported(package):
    for name in source_files():
        if name.split(".")[0] == package:
            importlib.import_module(name)


def test_no_module_needs_an_extra_to_be_imported():
    needed = {name: set(imported_with(ast.parse(file.read_text()))) for name, file in source_files().items()}
    assert {name: extras for name, packages in needed.items() if (extras := packages & set(EXTRAS))} == {}
    assert "torch" in needed["contextcir.batch"]  # so that the test sees imports at all


def test_extras_declare_the_packages_that_are_imported_late():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [line.lower() for name, packages in extras.items() if name != "dev" for line in packages]
    for name in EXTRAS:
        assert any(line.replace("-", "_").startswith(name) for line in lines), name


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {
        file.relative_to(PROJECT).as_posix()
        for package in PACKAGES
        for file in (PROJECT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_sdist_holds_the_packages_and_what_describes_them(wheel):
    folder = wheel.parents[1]
    (folder / "tests").mkdir()
    (folder / "tests" / "test_nothing.py").touch()  # setuptools would take it by itself
    script = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    run(sys.executable, "-c", script, folder=folder)
    (file,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    packaged = {name for name in names if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    assert packaged == {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    rest = {name for name in names - packaged if not name.startswith("contextcir.egg-info/")}
    assert rest == {*TOP, "PKG-INFO", "setup.cfg"}


def test_one_version_stands_everywhere():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == newest[1] == version


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_trains_from_an_empty_folder(python, tmp_path):
    variables = {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    where = run(python, "-c", "import contextcir as c; print(c.__version__, c.__file__)", folder=tmp_path).split()
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert where[0] == declared and Path(where[1]).is_relative_to(python.parents[1])
    small = [f"--data.size.{name}=6" for name in ("references", "shared_references")]
    small += ["--data.size.train_references=40", "--data.batch_size=32", "--data.num_workers=0"]
    configs = ["--config", "base", "--config", "scenes", "--data.draw=true", "--trainer.fast_dev_run=true"]
    run(python, "-m", "experiments.run", "fit", *configs, *small, folder=tmp_path, **variables)
    assert {path.name for path in tmp_path.iterdir()} >= {"datasets"}


def test_an_install_for_cpus_leaves_out_what_only_cuda_needs():
    steps = run("make", "--dry-run", "--what-if=requirements.lock", "install", "TORCH=cpu", folder=PROJECT).splitlines()
    (choice,) = (step for step in steps if step.startswith("grep"))
    kept = run("sh", "-c", choice.split(">")[0], folder=PROJECT).splitlines()
    left_out = set((PROJECT / "requirements.lock").read_text().splitlines()) - set(kept)
    of_torch = {re.match(r"[\w-]+", line)[0] for line in metadata.requires("torch") or () if "Linux" in line}
    names = {line.split("==")[0] for line in left_out}
    assert names >= of_torch
    assert all("sys_platform == 'linux'" in line for line in left_out)
    assert any("--torch-backend=cpu" in step for step in steps) and {"torch==2.14.1"} <= set(kept)
