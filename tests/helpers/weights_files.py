"""Files that are given in the place of weights: of other kinds, broken, and one that would run code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def cut(path: Path, keep: float = 0.5) -> Path:
    """Cut a file."""
    os.truncate(path, int(path.stat().st_size * keep))
    return path


def flip(path: Path, place: float = 0.5) -> Path:
    """Change a bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    return path


def saved(path: Path, content: Any, **options: Any) -> Path:
    """Write by torch.save."""
    torch.save(content, path, **options)
    return path


def written(path: Path, content: bytes) -> Path:
    """Write bytes."""
    path.write_bytes(content)
    return path


def bad_files(folder: Path, state: dict[str, torch.Tensor], trace: Path) -> dict[str, tuple[Path, str]]:
    """Write files that are no weights; return each with a word of the error that it is due."""
    tensors = {name: value.contiguous() for name, value in state.items()}
    first = next(iter(state))
    nan = {**state, first: torch.full_like(state[first], float("nan"))}
    save_file(tensors, folder / "s.safetensors")
    save_file(nan, folder / "nan.safetensors")
    os.mkfifo(folder / "fifo.pt")
    (folder / "loop.pt").symlink_to("loop.pt")
    (folder / "folder.pt").mkdir()
    np.savez(folder / "a.npz", a=np.ones(2))
    evil = Runs(trace)
    old = {"_use_new_zipfile_serialization": False}
    return {
        "code": (saved(folder / "code.pt", {"state_dict": evil}), "could run code"),
        "code, old format": (saved(folder / "old.pt", {"a": evil}, **old), "could run code"),
        "code, bare pickle": (written(folder / "bare.pt", pickle.dumps(evil)), "can't be read"),
        "code, text pickle": (written(folder / "text.pt", pickle.dumps(evil, 0)), "can't be read"),
        "a whole module": (saved(folder / "module.pt", torch.nn.Linear(2, 2)), "could run code"),
        "empty": (written(folder / "empty.pt", b""), "it is empty"),
        "cut": (cut(saved(folder / "cut.pt", state)), "cut off"),
        "cut, old format": (cut(saved(folder / "oldcut.pt", state, **old)), "can't be read"),
        "cut safetensors": (
            cut(written(folder / "c.safetensors", (folder / "s.safetensors").read_bytes())),
            "can't be read",
        ),
        "a flipped bit": (flip(saved(folder / "flip.pt", {"a": torch.arange(10_000.0)})), "damaged"),
        "text": (written(folder / "words.pt", b"hello\nworld"), "a text that begins with 'hello world'"),
        "a web page": (written(folder / "page.pt", b"<!DOCTYPE html>\n<html>"), "a web page"),
        "LFS pointer": (written(folder / "lfs.pt", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        "gzip": (written(folder / "gz.pt", b"\x1f\x8b\x08\x00abc"), "unpack it"),
        "NumPy": (folder / "a.npz", "NumPy"),
        "strings": (saved(folder / "str.pt", {"state_dict": {"a": "x"}}), "without weights"),
        "an int": (saved(folder / "int.pt", {"state_dict": {**state, "b": 3}}), "'b' in it is an int"),
        "a list": (saved(folder / "list.pt", [1, 2]), "a list"),
        "nothing": (saved(folder / "none.pt", {}), "without weights"),
        "NaN": (saved(folder / "nan.pt", {"state_dict": nan}), f"'{first}' is not finite"),
        "NaN in safetensors": (folder / "nan.safetensors", f"'{first}' is not finite"),
        "infinite": (saved(folder / "inf.pt", {**state, first: nan[first].fill_(torch.inf)}), "not finite"),
        "sparse": (saved(folder / "sparse.pt", {"a": torch.eye(3).to_sparse()}), "sparse"),
        "FIFO": (folder / "fifo.pt", "a named pipe"),
        "a loop of links": (folder / "loop.pt", "symbolic links"),
        "a folder": (folder / "folder.pt", "found a folder"),
        "a device": (Path("/dev/zero"), "a device"),
        "no file": (folder / "nowhere.pt", "no file"),
    }


ADDRESSES = (
    "http://127.0.0.1:9/x.ckpt",
    "HTTPS://h/x",
    "s3://b/x.ckpt",
    "hdfs://h/x",
    "file:///x",
    "registry:m",
    "ab::c",
)
