"""The command line: every config runs, runs leave what they promise, and mistakes are told in one line."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.training.module import ContextCIR
from data_modules.scenes.writer import Size, write_scenes
from experiments.failures import one_line_errors
from experiments.run import ExperimentCLI, main
from tests.helpers.make_data import make_cirr
from tests.helpers.paths import CONFIGS, PROJECT

BASE, SCENES, CIRR = (f"--config={CONFIGS / name}.yaml" for name in ("base", "scenes", "cirr_b32"))
pytestmark = pytest.mark.usefixtures("runs")
SIZE = Size(train_references=3, references=2, shared_references=2)


class StopAfterOneEpoch(Callback):
    """Ends training early, as a time limit would."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


@pytest.fixture
def on_scenes(small: list[str], scenes_folder: Path) -> list[str]:
    size = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    whole = ["--model.backbone.trainable_image_blocks=null", "--model.backbone.trainable_text_blocks=null"]
    epochs = ["--trainer.max_steps=-1", "--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"]
    return [BASE, SCENES, *small, f"--data.root={scenes_folder}", *size, "--data.batch_size=8", *whole, *epochs]


def weights(cli: ExperimentCLI) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in cli.model.state_dict().items()}


OVERLAYS = [None, *sorted(path.stem for path in (CONFIGS / "overlays").glob("*.yaml"))]


# One of each kind; the others are slow together.
QUICK = (None, "bf16", "concept_composer", "distilled_sum", "gradient_cache", "grounded_consistency", "lincir")


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(overlay, marks=[] if overlay in QUICK else [pytest.mark.slow]) for overlay in OVERLAYS],
)
def test_every_overlay_runs_on_scenes(
    overlay: str | None, on_scenes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIR_COMPILE", "eager")  # the default one compiles C++ for half a minute
    extra = [f"--config={CONFIGS / 'overlays' / overlay}.yaml"] if overlay else []
    stored = overlay in ("stored_negatives", "image_set_negatives")
    frozen = ["--model.backbone.trainable_image_blocks=0"] if stored else []
    short = ["--model.concept.init_args.steps=3"] if overlay == "searle" else []  # 350 for each image
    cli = main(["fit", *on_scenes[:2], *extra, *on_scenes[2:], *frozen, *short, "--trainer.fast_dev_run=2"])
    assert cli.trainer.global_step == 2
    if overlay == "no_concept":
        assert cli.model.concept is None
    if overlay == "one_layer":
        assert len(cli.model.fusion.blocks) == 1


@pytest.mark.all_figures
def test_a_run_leaves_checkpoints_config_metrics_tables_and_figures(on_scenes: list[str], runs: Path) -> None:
    cli = main(["fit", *on_scenes, "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"])
    folder = runs / "scenes" / "id1"
    assert Path(cli.trainer.default_root_dir) == folder
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["batch_size"] == 8
    assert (folder / "checkpoints" / "last.ckpt").exists()
    page = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert len(left) >= 8 and {name for name in left if f"`{name}" not in page} == set()
    assert len(list((folder / "attention" / "epoch_000").glob("query_*.png"))) == 6
    results = json.loads((folder / "metrics.json").read_text())
    assert set(results) == {"fit_start", "fit_end"}
    for phase in results.values():
        assert set(phase) == {"val", "circo_val"}
        assert set(phase["val"]["rows"]) == {"composed", "image_only", "text_only", "sum"}
        assert {f"recall_at_1_concepts_{n}" for n in range(1, 5)} <= set(phase["val"]["rows"]["composed"])
    assert "| composed |" in (folder / "recall_table.md").read_text()
    with next((folder / "csv").rglob("metrics.csv")).open() as file:
        logged = {name for row in csv.DictReader(file) for name, value in row.items() if value}
    assert {"val_recall_at_5", "val_subset_recall_at_1", "circo_val_map_at_5", "val_pointing_game"} <= logged
    assert {"train_loss", "train_contrastive", "train_concept", "val_sum_recall_at_1"} <= logged
    logged_value = cli.trainer.callback_metrics["val_recall_at_5"].item()
    assert logged_value == pytest.approx(results["fit_end"]["val"]["rows"]["composed"]["recall_at_5"], abs=1e-3)


@pytest.mark.slow
def test_a_stopped_fit_goes_on_from_its_last_checkpoint_to_the_same_weights(
    on_scenes: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["fit", *on_scenes, "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]
    whole = main([*flags, "--name=whole"])
    stopped = main([*flags, "--trainer.callbacks+=tests.commands.test_cli.StopAfterOneEpoch"])
    assert stopped.trainer.current_epoch == 1
    resumed = main([*flags, "--ckpt_path=last"])
    assert resumed.trainer.global_step == whole.trainer.global_step == 2 * stopped.trainer.global_step
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0, msg=name)


def test_two_ranks_score_what_one_process_scores(on_scenes: list[str], runs: Path) -> None:
    # 42 gallery images and 8 queries in batches of 5, on 2 ranks: padded, and the last batches uneven
    flags = ["validate", *on_scenes, "--data.eval_batch_size=5", "--trainer.callbacks=RecallTable"]
    main([*flags, "--name=one"])
    main([*flags, "--name=two", "--trainer.strategy=ddp_fork", "--trainer.devices=2"])
    one, two = (json.loads((runs / name / "id1" / "metrics.json").read_text())["validate"] for name in ("one", "two"))
    assert one["val"]["rows"] == two["val"]["rows"]
    assert one["circo_val"]["rows"] == two["circo_val"]["rows"]


def test_two_ranks_train_to_what_one_process_trains_to(on_scenes: list[str], runs: Path) -> None:
    flags = [
        "fit",
        *on_scenes,
        "--trainer.max_steps=3",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
    ]
    flags += ["--trainer.callbacks=tests.commands.test_cli.SaveWeights"]
    # With a large epsilon, AdamW's steps are in proportion to the gradient, as SGD's: else it would make full steps of
    # the rounding errors of gradients that are zero (of the biases of attention keys, say).
    flags += ["--model.optimizer.eps=1", "--model.optimizer.lr=5", "--model.optimizer.backbone_lr=5"]
    main([*flags, "--name=one", "--data.batch_size=8"])
    main([*flags, "--name=two", "--data.batch_size=4", "--trainer.strategy=ddp_fork", "--trainer.devices=2"])
    one, two = (torch.load(runs / name / "id1" / "weights.pt") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=2e-6, msg=name)


class SaveWeights(Callback):
    """Writes the trained weights, from wherever they are."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(pl_module.state_dict(), folder / "weights.pt")


@pytest.mark.slow
def test_flags_win_over_what_a_checkpoint_was_trained_with(on_scenes: list[str], runs: Path) -> None:
    trained = main(["fit", *on_scenes, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0"])
    file = trained.trainer.checkpoint_callback.best_model_path
    cli = main(["test", *on_scenes, f"--ckpt_path={file}", "--model.contrastive.init_args.temperature=0.5"])
    assert cli.model.contrastive.temperature == 0.5
    results = json.loads((runs / "scenes" / "id1" / "metrics.json").read_text())
    assert set(results["test"]) == {"test", "test_unseen", "circo_test", "hard"}
    for name, value in weights(trained).items():
        torch.testing.assert_close(weights(cli)[name], value, rtol=0, atol=0, msg=name)
    rebuilt = ContextCIR.load_from_checkpoint(file)
    assert rebuilt.contrastive.temperature == 0.03
    torch.testing.assert_close(dict(rebuilt.named_parameters())["fusion.pool.query"], cli.model.fusion.pool.query)


def test_interpolations_follow_flags(on_scenes: list[str], runs: Path) -> None:
    cli = main(["validate", *on_scenes, "--name=other", "--trainer.callbacks=RecallTable"])
    assert Path(cli.trainer.default_root_dir) == runs / "other" / "id1"
    assert (runs / "other" / "id1" / "metrics.json").is_file()


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that fails; return the last line that it wrote to standard error."""
    with pytest.raises(SystemExit) as failure, one_line_errors():
        main(list(args))
    assert failure.value.code not in (0, None)
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--model.temprature=0.1", "temprature"),
        ("--data.root=/no/such/place", "/no/such/place"),
        ("--model.backbone.model=ViT-B-33", "ViT-B-32"),
        ("--model.backbone.pretrained=/no/such/file.pt", "brings its own weights"),
        ("--config=/no/such/config.yaml", "/no/such/config.yaml"),
        ("--data.batch_size=100000", "--data.batch_size"),
        ("--model.fusion.init_args.heads=7", "--model.fusion.heads"),
        ("--ckpt_path=/no/such/checkpoint.ckpt", "/no/such/checkpoint.ckpt"),
    ],
)
def test_mistakes_are_told_in_one_line(
    flag: str, words: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cirr(tmp_path / "cirr")
    flags = [f"--data.root={tmp_path / 'cirr'}", "--data.batch_size=2", "--trainer.fast_dev_run=1"]
    flags += ["--model.concept=null"]  # it would need phrases
    assert words in error_of(capsys, "fit", BASE, CIRR, *small, *flags, flag)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_ends_the_run_with_its_name(
    workers: int, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cirr(tmp_path / "cirr")
    for file in (tmp_path / "cirr").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    flags = [f"--data.root={tmp_path / 'cirr'}", "--data.batch_size=2", "--trainer.fast_dev_run=1"]
    flags += ["--model.concept=null"]  # it would need phrases
    message = error_of(capsys, "fit", BASE, CIRR, *small, *flags, f"--data.num_workers={workers}")
    assert message.startswith("error: ")
    assert ".png" in message
    assert "record" in message
