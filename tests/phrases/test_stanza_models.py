"""Models of Stanza's that are missing, damaged, half there or evil: one line, at once, that says what to do."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contextcir.errors import LONGEST, InputError, MissingFileError
from contextcir.phrases import stanza_models
from contextcir.phrases.constituency import ConstituencyParser
from contextcir.phrases.stanza_models import LIST, PROCESSORS, StanzaModels, weights_only

stanza = pytest.importorskip("stanza", reason="needs Stanza")
OFFLINE = ("https://example.org/list", "Name or service not known")


def listed(model: bytes = b"weights") -> dict:
    """A list of models without dependencies, in the form of Stanza's."""
    kinds = {kind: {"small": {"md5": stanza_models.hashlib.md5(model).hexdigest()}} for kind in PROCESSORS}
    return {"en": {**kinds, "packages": {"default": dict.fromkeys(PROCESSORS, "small"), "default_fast": {}}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole folder of models that hold nothing, without a network."""
    for kind in PROCESSORS:
        (tmp_path / "en" / kind).mkdir(parents=True)
        (tmp_path / "en" / kind / "small.pt").write_bytes(b"weights")
    (tmp_path / LIST).write_text(json.dumps(listed()))
    monkeypatch.setattr(stanza_models, "unreachable", lambda _: OFFLINE)
    return tmp_path


def replaced(folder: Path, text: str | bytes) -> None:
    (folder / LIST).write_bytes(text if isinstance(text, bytes) else text.encode())


def edited(**fields: object) -> Callable[[Path], None]:
    return lambda folder: replaced(folder, json.dumps({"en": {**listed()["en"], **fields}}))


POS = "en/pos/small.pt"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, f"no {LIST} in .*; example.org does not answer .*STANZA_RESOURCES_DIR=DIR"),
    "no list": (lambda folder: (folder / LIST).unlink(), f"no {LIST} in .*; example.org"),
    "no model": (lambda folder: (folder / POS).unlink(), f"no {POS} in .*; example.org"),
    "an empty model": (lambda folder: (folder / POS).write_bytes(b""), f"damaged, or of another release, is {POS}"),
    "half a model": (lambda folder: (folder / POS).write_bytes(b"weig"), f"damaged.*{POS}.*stanza.download"),
    "a folder as model": (lambda folder: ((folder / POS).unlink(), (folder / POS).mkdir()), "found a folder"),
    "a pipe as model": (lambda folder: ((folder / POS).unlink(), os.mkfifo(folder / POS)), "found a named pipe"),
    "a pipe as list": (lambda folder: ((folder / LIST).unlink(), os.mkfifo(folder / LIST)), "found a named pipe"),
    "an empty list": (lambda folder: replaced(folder, ""), f"{LIST}: not valid JSON"),
    "half a list": (lambda folder: replaced(folder, json.dumps(listed())[:80]), f"{LIST}: not valid JSON"),
    "binary": (lambda folder: replaced(folder, b"\xff\xfe"), "expected text in UTF-8"),
    "a JSON list": (lambda folder: replaced(folder, "[1]"), f"{LIST}: is no list of Stanza's English models"),
    "nested": (lambda folder: replaced(folder, "[" * 100_000), "nested too deeply"),
    "another language": (lambda folder: replaced(folder, '{"de": {}}'), "is no list of Stanza's"),
    "packages of numbers": (edited(packages=3), "is no list of Stanza's"),
    "a package of numbers": (edited(packages={"default": 3}), "is no list of Stanza's"),
    "unknown model": (edited(pos={}), "is no list of Stanza's"),
    "wrong dependencies": (edited(pos={"small": {"dependencies": [3]}}), "is no list of Stanza's"),
    "a path out of it": (edited(pos={"small": {"dependencies": [{"model": "..", "package": "../x"}]}}), r"is no list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_models_that_cannot_be_used_are_one_line(folder, fault):
    make, words = FAULTS[fault]
    make(folder)
    with pytest.raises(InputError, match=words) as error:
        StanzaModels(str(folder), "default").made_ready()
    assert len(str(error.value)) < LONGEST + len(str(folder)) and str(error.value).isprintable()


def test_a_name_in_the_list_does_not_lead_out_of_the_folder(folder):
    edited(packages={"default": {"tokenize": "../../../x"}}, tokenize={"../../../x": {}})(folder)
    with pytest.raises(InputError, match=r"without '\.\.'"):
        StanzaModels(str(folder), "default").made_ready()


def test_an_unknown_package_is_named(folder):
    with pytest.raises(InputError, match=r"no package 'best'.* default, default_fast \(parser.package\)"):
        StanzaModels(str(folder), "best").made_ready()


def test_the_digest_is_that_of_the_files(folder):
    before = StanzaModels(str(folder), "default").made_ready()
    assert before == StanzaModels(str(folder), "default").made_ready()
    (folder / POS).write_bytes(b"others")
    listing = listed()
    listing["en"]["pos"]["small"]["alternate_md5"] = stanza_models.hashlib.md5(b"others").hexdigest()
    replaced(folder, json.dumps(listing))
    assert StanzaModels(str(folder), "default").made_ready() != before


@pytest.mark.parametrize("failure", [OSError("disk\nfull"), RuntimeError(), ValueError("x" * 1000)])
def test_a_download_that_fails_is_one_line(folder, monkeypatch, failure):
    def download(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(stanza_models, "unreachable", lambda _: None)
    monkeypatch.setattr(stanza, "download", download)
    (folder / POS).unlink()
    with pytest.raises(MissingFileError, match="the download failed.*STANZA_RESOURCES_DIR=DIR$") as error:
        StanzaModels(str(folder), "default").made_ready()
    assert str(error.value).isprintable() and len(str(error.value)) < LONGEST + len(str(folder))


@pytest.mark.parametrize("variable", [None, ""])
def test_without_the_variable_the_folder_is_stanzas_own(variable, monkeypatch):
    from stanza.resources.common import DEFAULT_MODEL_DIR

    monkeypatch.delenv("STANZA_RESOURCES_DIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("STANZA_RESOURCES_DIR", variable)
    assert ConstituencyParser().models.folder == Path(DEFAULT_MODEL_DIR)


def test_a_model_that_is_a_program_does_not_run(folder):
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(folder / "ran"),)

    content = pickle.dumps(Evil())
    for kind in PROCESSORS:
        (folder / "en" / kind / "small.pt").write_bytes(content)
    replaced(folder, json.dumps(listed(content)))
    with pytest.raises(InputError, match=r"can't load its models on 'cpu'.*\(parser.device\)") as error:
        ConstituencyParser(model_dir=str(folder)).parse(["a red car"])
    assert not (folder / "ran").exists() and len(str(error.value)) <= LONGEST + len(str(folder))


def test_weights_only_overrules_whoever_loads(tmp_path):
    import torch

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError), weights_only():
        torch.load(tmp_path / "model.pt", weights_only=False)
    assert not (tmp_path / "ran").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_server_without_an_answer_is_told_in_time():
    import socket

    from contextcir.network import unreachable

    with socket.socket() as deaf:  # accepts, and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url, started = f"http://127.0.0.1:{deaf.getsockname()[1]}/", time.monotonic()
        assert unreachable([url], seconds=0.5)[0] == url and time.monotonic() - started < 3
    assert "refused" in unreachable([url])[1]
    assert "begins with https" in unreachable(["file:///etc/passwd"])[1]
