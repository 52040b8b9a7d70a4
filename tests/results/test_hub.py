"""A run's model goes to a stand-in of the Hub and comes back by `contextcir.load`; a token is never shown or kept."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from lightning.pytorch.cli import instantiate_module

import contextcir
from contextcir.encoders import downloads
from contextcir.errors import InputError
from contextcir.training import hub_files
from contextcir.training.module import ContextCIR
from contextcir.weights import state_digest
from experiments.hub.__main__ import main
from experiments.hub.client import without_token
from tests.helpers.hub_server import HubServer
from tests.helpers.result_runs import make_run

TOKEN = "hf_FakeTokenOfATest0123456789"
SETTINGS = {
    "backbone": {
        "class_path": "contextcir.encoders.OpenCLIPBackbone",
        "init_args": {"model": "scenes-vit", "trainable_image_blocks": 0},
    },
    "fusion": {"class_path": "contextcir.fusion.ClauseSum", "init_args": {"scale": 0.7}},
}


@pytest.fixture(scope="module")
def model() -> ContextCIR:
    torch.manual_seed(0)
    made: ContextCIR = instantiate_module(ContextCIR, SETTINGS)
    with torch.no_grad():  # as after training
        for weight in made.fusion.parameters():
            weight.add_(0.25)
    return made.eval()


@pytest.fixture
def run(model: ContextCIR, tmp_path: Path) -> Path:
    """A run whose figures are of the weights of its checkpoint."""
    state = model.state_dict()
    folder = make_run(tmp_path / "exp" / "id1", made={"checkpoint": None, "weights": state_digest(state)})
    (folder / "checkpoints").mkdir()
    content = {"pytorch-lightning_version": "2.6.4", "state_dict": state, "hyper_parameters": SETTINGS}
    torch.save({**content, "hparams_name": "kwargs"}, folder / "checkpoints" / "epoch=0-step=20.ckpt")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is not HTTP alone
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        import huggingface_hub

        api = partial(huggingface_hub.HfApi, endpoint=server.url)
        monkeypatch.setattr(huggingface_hub, "HfApi", api)
        own = partial(huggingface_hub.hf_hub_download, endpoint=server.url, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", own)
        cached = partial(huggingface_hub.try_to_load_from_cache, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
        yield server


def same(first: ContextCIR, second: ContextCIR) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_pushed_is_loaded_from_the_hub(
    run: Path, model: ContextCIR, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(run), "me/small"])
    said = capsys.readouterr()
    assert "commit/" in said.out and 'contextcir.load("hf-hub:me/small")' in said.out
    sent = hub.repositories["me/small"]
    assert set(sent) == {"contextcir.safetensors", "contextcir.json", "README.md", "results.json"}
    assert any(line.startswith("PUT /lfs/") for line in hub.asked)
    loaded = contextcir.load("hf-hub:me/small")
    assert same(loaded, model) and not loaded.training
    images = torch.rand(2, 3, 96, 96)
    words = ["make it red", "without the hat"]
    assert torch.equal(loaded.embed_query(images, words), model.embed_query(images, words))
    for content in [said.out, said.err, *sent.values()]:
        assert TOKEN.encode() not in (content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_one_line_without_the_token(
    status: int, run: Path, hub: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuse = status
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between its tries
    with pytest.raises(SystemExit) as end:
        main(["push", str(run), "me/small"])
    told = capsys.readouterr()
    assert end.value.code == 1 and told.err.count("\n") == 1 and "the Hub refused me/small" in told.err
    assert TOKEN not in told.err + told.out
    assert ("HF_TOKEN" in told.err) == (status != 500)


def test_a_dry_run_sends_nothing_and_writes_what_load_reads(
    run: Path, model: ContextCIR, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(run), "me/small", "--dry-run", "--out", str(tmp_path / "dry")])
    said = capsys.readouterr().out
    for name in ("contextcir.safetensors", "contextcir.json", "README.md", "results.json"):
        assert f"{tmp_path / 'dry' / name}: " in said
    assert hub.asked == [] and same(contextcir.load(tmp_path / "dry"), model)


def test_the_card_has_the_figures_of_the_run(run: Path, tmp_path: Path) -> None:
    main(["push", str(run), "me/small", "--dry-run", "--out", str(tmp_path / "dry")])
    card = (tmp_path / "dry" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and "composed-image-retrieval" in front["tags"]
    rows = json.loads((run / "metrics.json").read_text())["validate"]["val"]["rows"]
    for row in ("composed", "image_only", "text_only", "sum"):
        line = next(line for line in card.splitlines() if line.startswith(f"| {row.replace('_', ' ')} |"))
        assert f"{rows[row]['recall_at_1']:.2f}" in line and f"{rows[row]['mean_recall']:.2f}" in line
    assert "CIRR val, protocol version" in card and "xing2025contextcir" in card
    weights = json.loads((tmp_path / "dry" / "contextcir.json").read_text())["weights"]
    assert f"`{weights}`" in card and "/home" not in card


def test_figures_of_other_weights_are_no_figures_of_this_model(run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for entry in metrics["validate"].values():
        entry["weights"] = "0" * 64
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit):
        main(["push", str(run), "me/small", "--dry-run", "--out", str(tmp_path / "dry")])


def test_a_licence_that_is_not_known_has_to_be_given(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for entry in metrics["validate"].values():
        entry["model"] = "ViT-B-32"
    (run / "metrics.json").write_text(json.dumps(metrics))
    flags = ["push", str(run), "me/small", "--dry-run", "--out", str(tmp_path / "dry")]
    with pytest.raises(SystemExit):
        main(flags)
    assert "licence of ViT-B-32 is not known" in capsys.readouterr().err
    main([*flags, "--licence", "mit"])
    assert "license: mit" in (tmp_path / "dry" / "README.md").read_text()


@pytest.mark.parametrize("name", ["small", "me/../x", "a/b/c", "", "me/ small", f"me/{'x' * 200}"])
def test_names_of_repositories_are_checked(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["push", str(run), name, "--dry-run"])
    assert capsys.readouterr().err.count("\n") == 1


def test_tokens_are_taken_out_of_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "unlike-others-42")
    text = f"401 for https://user:pw@host/x with Bearer abc.def, {TOKEN} and unlike-others-42"
    assert without_token(text) == "401 for https://(token)host/x with (token) (token) and (token)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion": {"class_path": "os.system"}}, "no class of contextcir"),
        ({"fusion": "os.system"}, "expected a class"),
        ({"fusion": {"class_path": "contextcir.fusion.ClauseSum", "init_args": {"f": "os.system"}}}, "to import"),
        ({"fusion": {"class_path": "contextcir.fusion.ClauseSum", "init_args": {"a": [{"class_path": "x.Y"}]}}}, "x.Y"),
        ({"other": None}, "expected settings of"),
        ({"backbone": {"class_path": "contextcir.encoders.OpenCLIPBackbone",
                       "init_args": {"model": "local-dir:/data/clip"}}}, "a place on one machine"),
    ],
)  # fmt: skip
def test_settings_that_name_anything_else_are_neither_written_nor_read(
    change: dict[str, Any], words: str, model: ContextCIR, tmp_path: Path
) -> None:
    hub_files.save(SETTINGS, model.state_dict(), tmp_path)
    content = json.loads((tmp_path / "contextcir.json").read_text())
    content["model"] |= change
    (tmp_path / "contextcir.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        contextcir.load(tmp_path)
    if "other" not in change:
        with pytest.raises(InputError, match=words):
            hub_files.save({**SETTINGS, **change}, model.state_dict(), tmp_path / "more")


def test_settings_of_other_weights_are_refused(model: ContextCIR, tmp_path: Path) -> None:
    hub_files.save(SETTINGS, model.state_dict(), tmp_path)
    path = tmp_path / "contextcir.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(InputError, match="other weights"):
        contextcir.load(tmp_path)


def test_nothing_is_sent_where_nothing_answers(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(SystemExit):
        main(["push", str(run), "me/small"])
    assert "can't be reached" in capsys.readouterr().err
    assert downloads.PROBE > 0
