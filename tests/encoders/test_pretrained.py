"""Where weights come from: files as people have them, tags without a network, folders, and random ones."""

import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from contextcir.encoders import downloads, pretrained
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.pretrained import Source, fill, quick_gelu_of, weights_postponed
from contextcir.errors import InputError
from contextcir.weights import read_weights
from tests.helpers import tiny
from tests.helpers.weights_files import bad_files, saved

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def known() -> Any:
    """A model by name, as small as `tiny`, with and without QuickGELU."""
    names = {"tiny-ViT": tiny.CONFIG, "tiny-ViT-quickgelu": {**tiny.CONFIG, "quick_gelu": True}}
    open_clip.factory._MODEL_CONFIGS.update(names)
    yield
    for name in names:
        del open_clip.factory._MODEL_CONFIGS[name]


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


ARRIVALS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "compiled": prefixed("_orig_mod."),
    "a compiled tower": lambda state: {n.replace("visual.", "visual._orig_mod."): v for n, v in state.items()},
    "DDP": prefixed("module."),
    "in a module": prefixed("model."),
    "in a wrapper's clip": prefixed("clip."),
    "our checkpoint": lambda state: {"state_dict": {**prefixed("backbone.clip.")(state), "fusion.x": torch.ones(1)}},
    "wrapped twice": lambda state: {"model": {"state_dict": prefixed("module.")(state)}, "epoch": 3},
    "half precision": lambda state: {n: v.half() if v.is_floating_point() else v for n, v in state.items()},
    "without the temperature": lambda state: {n: v for n, v in state.items() if n != "logit_scale"},
    "with a mask": lambda state: {**state, "attn_mask": torch.full((77, 77), -torch.inf).triu(1)},
}


@pytest.mark.filterwarnings("ignore:.*does not say which activation")
def test_files_as_people_have_them_are_loaded(tmp_path: Path) -> None:
    state = tiny.clip(seed=5).state_dict()
    for name, change in ARRIVALS.items():
        clip = tiny.clip(seed=1)
        fill(
            clip, read_weights(saved(tmp_path / "a.pt", change(state))), "tiny-ViT", "model.backbone.pretrained", False
        )
        for key, value in clip.state_dict().items():
            if key != "logit_scale":
                torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")
    custom = tiny.clip(custom_text=True, seed=1)
    fill(custom, read_weights(saved(tmp_path / "a.pt", state)), "m", "s", False)
    assert torch.equal(custom.state_dict()["text.ln_final.weight"], state["ln_final.weight"])


def test_broken_files_and_those_of_other_models_are_told_in_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("w")  # a short name: long messages leave out their middle
    trace, clip = tmp_path / "ran", tiny.clip()
    other = {
        "another model": (saved(tmp_path / "o1.pt", {"conv.weight": torch.ones(3)}), "is missing"),
        "a wider one": (
            saved(tmp_path / "o2.pt", open_clip.CLIP(**{**tiny.CONFIG, "embed_dim": 64}).state_dict()),
            "shape",
        ),
        "whole numbers": (saved(tmp_path / "o3.pt", {n: v.int() for n, v in clip.state_dict().items()}), "whole"),
    }
    for name, (file, word) in {**bad_files(tmp_path, clip.state_dict(), trace), **other}.items():
        with pytest.raises(InputError) as caught:
            Source("tiny-ViT", "tiny-ViT", str(file), False).fill(clip)
        text = str(caught.value)
        assert word in text and "\n" not in text and len(text) - len(str(tmp_path)) < 300, (name, text)
        assert caught.value.setting == "model.backbone.pretrained" and not trace.exists(), name
    for address in ("http://127.0.0.1:9/x.pt", "s3://b/x.pt"):
        with pytest.raises(InputError, match="got the address"):
            OpenCLIPBackbone("tiny-ViT", address)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "own.pth"])
def test_a_folder_runs_nothing_and_is_checked(name: str, tmp_path: Path) -> None:
    folder, trace = tiny.clip_folder(tmp_path / "clip"), tmp_path / "ran"
    (folder / "open_clip_model.safetensors").unlink()
    file, _ = bad_files(tmp_path, {"a": torch.ones(1)}, trace)["code"]
    (folder / name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="can't be read as a checkpoint of weights"):
        OpenCLIPBackbone(f"local-dir:{folder}")
    (folder / name).unlink()
    state = {**tiny.clip().state_dict(), "visual.proj": torch.full((64, 32), torch.nan)}
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        saved(folder / name, state)
    with pytest.raises(InputError, match=r"'visual.proj' is not finite"):
        OpenCLIPBackbone(f"local-dir:{folder}")
    assert not trace.exists()


NONSENSE: dict[str, Callable[[dict], Any]] = {
    "nested too deeply": lambda config: "[" * 100_000,
    "twice": lambda config: '{"model_cfg": {}, "model_cfg": {}}',
    "not valid JSON": lambda config: "{",
    "model_cfg must be": lambda config: [1],
    "vision_cfg must be": lambda config: config["model_cfg"].update(vision_cfg=3),
    "embed_dim": lambda config: config["model_cfg"].update(embed_dim="32"),
    "vision_cfg.layers": lambda config: config["model_cfg"]["vision_cfg"].update(layers=-1),
    "vision_cfg.width": lambda config: config["model_cfg"]["vision_cfg"].update(width=10**30),
    "vision_cfg.head_width": lambda config: config["model_cfg"]["vision_cfg"].update(head_width=7),
    "vision_cfg.patch_size": lambda config: config["model_cfg"]["vision_cfg"].update(patch_size=0),
    "vision_cfg.image_size": lambda config: config["model_cfg"]["vision_cfg"].update(image_size=4),
    "text_cfg.heads": lambda config: config["model_cfg"]["text_cfg"].update(heads=0),
    "text_cfg.vocab_size": lambda config: config["model_cfg"]["text_cfg"].update(vocab_size=None),
    "a model of": lambda config: config["model_cfg"]["text_cfg"].update(width=100_000, layers=1000),
    "preprocess_cfg.mean": lambda config: config.update(preprocess_cfg={"mean": 0.5}),
    "preprocess_cfg.std": lambda config: config.update(preprocess_cfg={"std": [0, 1, 1]}),
    "preprocess_cfg must be": lambda config: config.update(preprocess_cfg=[1]),
    "can't build the model": lambda config: config["model_cfg"].update(nonsense=1),
}


def test_nonsense_in_the_configuration_of_a_folder_is_told_with_its_field(tmp_path: Path) -> None:
    folder = tiny.clip_folder(tmp_path)
    good = (folder / "open_clip_config.json").read_text()
    for word, change in NONSENSE.items():
        config = json.loads(good)
        changed = change(config)
        text = changed if isinstance(changed, str) else json.dumps(config if changed is None else changed)
        (folder / "open_clip_config.json").write_text(text)
        with pytest.raises(InputError) as caught:
            OpenCLIPBackbone(f"local-dir:{folder}")
        told = str(caught.value)
        assert word in told and "\n" not in told and len(told) - len(str(folder)) < 280, (word, told)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": -1}, "from 1 to 8192"),
        ({"image_size": 50}, "multiple of the patches' 8 pixels"),
        ({"image_size": 10**9}, "from 1 to 8192"),
        ({"trainable_image_blocks": -1}, "give 0 to 2"),
        ({"trainable_text_blocks": True}, "give 0 to 2"),
    ],
)
def test_impossible_settings_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        OpenCLIPBackbone("tiny-ViT", "random", **options)
    assert caught.value.setting == f"model.backbone.{next(iter(options))}"


def test_random_weights_have_to_be_asked_for(tmp_path: Path) -> None:
    for nothing in (None, ""):
        with pytest.raises(InputError, match="has no weights of its own: give a tag .*, a file, or 'random'"):
            OpenCLIPBackbone("ViT-B-32", nothing)
    assert OpenCLIPBackbone("tiny-ViT", "random").pretrained == "random"
    folder = tiny.clip_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    assert OpenCLIPBackbone(f"local-dir:{folder}", "random").image_size == 32


def test_the_activation_is_compared_where_something_tells_it_and_said_where_nothing_does(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", tiny.clip().state_dict())
    with pytest.warns(
        UserWarning, match=r"does not say which activation .*tiny-ViT computes GELU. tiny-ViT-quickgelu is"
    ):
        OpenCLIPBackbone("tiny-ViT", str(file))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_act": "quick_gelu"}}))
    with pytest.raises(InputError, match=r"a.pt were trained with QuickGELU.*use the model tiny-ViT-quickgelu"):
        OpenCLIPBackbone("tiny-ViT", str(file))
    OpenCLIPBackbone("tiny-ViT-quickgelu", str(file))
    cached = tmp_path / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / "1"
    cached.mkdir(parents=True)
    assert quick_gelu_of(read_weights(saved(cached / "m.pt", {"a": torch.ones(1)}))) is True
    assert quick_gelu_of(read_weights(saved(cached.parents[2] / "m.pt", {"a": torch.ones(1)}))) is True
    (tmp_path / "config.json").unlink()
    assert quick_gelu_of(read_weights(tmp_path / "m.pt")) is None


def test_weights_that_a_checkpoint_will_replace_are_not_read(tmp_path: Path) -> None:
    with weights_postponed():
        late = OpenCLIPBackbone("tiny-ViT", str(tmp_path / "nowhere.pt"))
    state = {f"clip.{name}": value for name, value in tiny.clip(seed=3).state_dict().items()}
    late.load_state_dict(state)
    late.load_weights()
    assert late.pretrained == str(tmp_path / "nowhere.pt") and torch.equal(
        late.clip.visual.proj, state["clip.visual.proj"]
    )
    with weights_postponed():
        forgotten = OpenCLIPBackbone(f"local-dir:{tiny.clip_folder(tmp_path)}")
    tokens = forgotten.tokenizer(["a dog"])
    torch.testing.assert_close(forgotten.encode_text(tokens), tiny.backbone().encode_text(tokens))
    with weights_postponed():
        missing = OpenCLIPBackbone("tiny-ViT", str(tmp_path / "nowhere.pt"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt"):
        missing.encode_text(tokens)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A Hub that takes connections and never answers, and an empty cache."""
    from huggingface_hub import constants

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(downloads, "PROBE", 0.3)
        monkeypatch.setattr(downloads, "PROBE", 0.3)
        yield


@pytest.mark.parametrize(
    ("model", "tag", "repository"),
    [
        ("tiny-hub", "openai", "timm/vit_base_patch32_clip_224.openai"),
        ("hf-hub:somebody/clip", None, "somebody/clip"),
    ],
)
def test_a_missing_download_is_told_at_once(
    model: str, tag: str | None, repository: str, silent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if tag:
        config = open_clip.get_pretrained_cfg("ViT-B-32", tag)
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, model, {**tiny.CONFIG, "quick_gelu": True})
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, model, {tag: config})
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        OpenCLIPBackbone(model, tag)
    told = str(caught.value)
    assert time.monotonic() - start < 5 and not [record for record in caplog.records if record.levelno > logging.INFO]
    for words in (repository, str(tmp_path / "hub"), "can't be reached", f"hf download {repository}"):
        assert words in told
    assert caught.value.setting == f"model.backbone.{'pretrained' if tag else 'model'}"


def test_what_is_in_the_cache_needs_no_network(silent: Any, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--somebody--clip"
    snapshot = tiny.clip_folder(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    backbone = OpenCLIPBackbone("hf-hub:somebody/clip")
    torch.testing.assert_close(backbone.clip.visual.proj, tiny.clip().visual.proj)
    (snapshot / "open_clip_model.safetensors").unlink()
    file, _ = bad_files(tmp_path, {"a": torch.ones(1)}, tmp_path / "ran")["code"]
    (snapshot / "open_clip_pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="could run code"):
        OpenCLIPBackbone("hf-hub:somebody/clip")
    assert not (tmp_path / "ran").exists()


def test_weights_for_other_sizes_of_images_are_resized_with_a_word(tmp_path: Path) -> None:
    large = open_clip.CLIP(**{**tiny.CONFIG, "vision_cfg": {**tiny.CONFIG["vision_cfg"], "image_size": 64}})
    save_file({n: v.contiguous() for n, v in large.state_dict().items()}, tmp_path / "a.safetensors")
    with pytest.warns(
        UserWarning, match=r"64 patches an image, 'tiny-ViT' has 16: its position embeddings were resized"
    ):
        fill(tiny.clip(), read_weights(tmp_path / "a.safetensors"), "tiny-ViT", "s", False)
    assert pretrained.RANDOM == "random"
