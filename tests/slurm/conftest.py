"""A cluster for all tests of this folder. They run where the folder is named: `make test-slurm`."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_modules.scenes.writer import Size, write_scenes
from tests.helpers.debian import Unavailable
from tests.slurm.cluster import Cluster, install
from tests.slurm.jobs import PROJECT, Jobs

CONFIGS = PROJECT / "experiments" / "configs"
SIZE = Size(train_references=6, references=2, shared_references=2)
FOLDER = {"dirpath": "${trainer.default_root_dir}/checkpoints"}
BEST = {"class_path": "ModelCheckpoint", "init_args": {**FOLDER, "monitor": "val_recall_at_1", "mode": "max"}}
RESUME = {"class_path": "ResumePoints", "init_args": FOLDER}
SMALL = {
    "trainer": {
        "callbacks": ["RecallTable", "StepSeeds", BEST, RESUME],
        "logger": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0,
        "max_steps": 6,
        "val_check_interval": 3,
        "precision": "32-true",
        "accelerator": "cpu",
        "deterministic": True,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "data": {"init_args": {"num_workers": 0, "size": dict(vars(SIZE)), "eval_batch_size": 16}},
    "model": {
        "backbone": {"init_args": {"pretrained": None, "trainable_text_blocks": 1}},
        # With a large epsilon, AdamW does not make full steps of rounding errors: weights can be compared.
        "optimizer": {"init_args": {"warmup_steps": 2, "eps": 1.0, "lr": 5.0, "backbone_lr": 5.0}},
    },
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of a run of all tests: they start daemons, and install them where they are missing."""
    named = any("slurm" in str(argument) for argument in config.invocation_params.args)
    return None if named else True


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node."""
    try:
        install()
    except Unavailable as reason:
        pytest.skip(str(reason))
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> Jobs:
    """Jobs that leave their runs and logs in the test's folder."""
    return Jobs(cluster, tmp_path)


@pytest.fixture(scope="session")
def small_fit(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> list[str]:
    """Flags of a fit of six steps, with an evaluation after the third and the last one."""
    folder = tmp_path_factory.mktemp("small")
    write_scenes(folder / "scenes", 0, SIZE, workers=1)
    overlay = folder / "small.yaml"
    overlay.write_text(yaml.safe_dump(SMALL))
    files = [CONFIGS / "base.yaml", CONFIGS / "scenes.yaml", overlay]
    flags = [f"--model.backbone.model=local-dir:{clip_folder}", f"--data.root={folder / 'scenes'}"]
    return [*(f"--config={file}" for file in files), *flags]
