"""The recorded run of the published implementation, packed to under 1 MB; tests/data/golden/README.md describes it."""

import json
import lzma
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from contextcir.encoders.text import Tokenizer

TOKEN_ROWS = "text_encoder.model.embeddings.token_embedding.weight"
SEED = 1  # the recorded images are the first normal draws of this seed
STEPS = 2**20  # long results are rounded to multiples of their largest entry over this: a twentieth of the tolerance
LONG = 1000  # entries; shorter results are kept to the last bit
COMPRESSION = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}  # bytes alone

Tensors = Mapping[str, np.ndarray]


def pack(full: Path, packed: Path) -> None:
    """Write ``record.xz`` and ``case.json`` from the folder of the full record."""
    packed.mkdir(parents=True, exist_ok=True)
    state, images, expected = (load_file(full / f"{name}.safetensors") for name in ("state_dict", "images", "expected"))
    digests = {"state_dict": digest(needed_rows(state, full)), "images": digest(images)}
    rows = token_rows(full)
    tensors = {f"state_dict/{name}": value for name, value in state.items()}
    tensors[f"state_dict/{TOKEN_ROWS}"] = state[TOKEN_ROWS][rows]

    pixels = float_order(np.stack([images["reference"], images["target"]]))
    tensors["images"] = (pixels - float_order(normal_draws(pixels.shape))).astype(np.int32)

    scales, valid = {}, expected["text_mask"].astype(bool)
    for name, value in expected.items():
        value = value[valid_entries(name, valid)]
        if value.dtype == np.float32 and value.size > LONG:
            scales[name] = float(np.abs(value).max()) / STEPS
            value = np.round(value / scales[name]).astype(np.int32)
        tensors[f"expected/{name}"] = value

    index = {name: [value.dtype.str, list(value.shape)] for name, value in tensors.items()}
    record = {"token_rows": rows, "scales": scales, "sha256": digests, "tensors": index}
    header = json.dumps(record).encode()
    content = b"".join([len(header).to_bytes(8, "big"), header, *map(byte_planes, by_type(tensors).values())])
    (packed / "record.xz").write_bytes(lzma.compress(content, filters=[COMPRESSION]))
    shutil.copyfile(full / "case.json", packed / "case.json")


def unpack(packed: Path, full: Path) -> Path:
    """Write the files of the full record; token rows that no text needs are zero, and so are results of padding."""
    full.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(packed / "case.json", full / "case.json")
    content = lzma.decompress((packed / "record.xz").read_bytes())
    start = 8 + int.from_bytes(content[:8], "big")
    record = json.loads(content[8:start])
    tensors = read_planes(content[start:], record["tensors"])
    state, expected = (
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in ("state_dict/", "expected/")
    )

    text = json.loads((full / "case.json").read_text(encoding="utf-8"))["text"]
    embedding = np.zeros((text["vocab_size"], text["hidden_size"]), np.float16)
    embedding[record["token_rows"]] = state[TOKEN_ROWS]
    state[TOKEN_ROWS] = embedding

    pixels = from_float_order(float_order(normal_draws(tensors["images"].shape)) + tensors["images"])
    images = {"reference": pixels[0], "target": pixels[1]}

    valid = expected["text_mask"].astype(bool)
    for name, scale in record["scales"].items():
        expected[name] = (expected[name] * scale).astype(np.float32)
    for name in ("text_tokens", "attention_per_layer"):
        values = expected[name]
        expected[name] = np.zeros(full_shape(name, values, valid), np.float32)
        expected[name][valid_entries(name, valid)] = values

    for name, part in (("state_dict", state), ("images", images), ("expected", expected)):
        save_file({key: np.array(value, order="C") for key, value in part.items()}, full / f"{name}.safetensors")
    assert record["sha256"] == {"state_dict": digest(state), "images": digest(images)}
    return full


def token_rows(folder: Path) -> list[int]:
    """Return the ids of all tokens of the captions and of the noun phrases alone, padding included."""
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    texts = [*case["captions"], *(phrase for phrases in case["noun_phrases"] for phrase in phrases)]
    return sorted(set(Tokenizer("ViT-B-32")(texts).ids.flatten().tolist()))


def needed_rows(state: Tensors, folder: Path) -> Tensors:
    """Return the weights with zeros in the token rows that no text needs."""
    rows = token_rows(folder)
    embedding = np.zeros_like(state[TOKEN_ROWS])
    embedding[rows] = state[TOKEN_ROWS][rows]
    return {**state, TOKEN_ROWS: embedding}


def valid_entries(name: str, valid: np.ndarray) -> tuple:
    """Return the index of the entries of a result that are no padding; ``valid``: (B, T)."""
    if name == "text_tokens":  # (B, T, D) to (valid, D)
        return (valid,)
    if name == "attention_per_layer":  # (L, B, H, V, T) to (valid, L, H, V)
        row, position = valid.nonzero()
        return (slice(None), row, slice(None), slice(None), position)
    return ()


def full_shape(name: str, values: np.ndarray, valid: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a result before `valid_entries` took its part of it."""
    if name == "text_tokens":
        return (*valid.shape, values.shape[1])
    _, layers, heads, vision = values.shape
    return (layers, len(valid), heads, vision, valid.shape[1])


def normal_draws(shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal draws by Box and Muller's method, in blocks of 16, as PyTorch makes them on a CPU.

    NumPy guarantees the stream of this generator for all its versions, PyTorch guarantees nothing of its own. Each step
    is rounded to float32 as there; where the last digit differs all the same, a correction is stored.
    """
    integers = np.frombuffer(np.random.RandomState(SEED).bytes(4 * int(np.prod(shape))), "<u4")
    uniform = ((integers & 0xFFFFFF).reshape(-1, 2, 8) / 2.0**24).astype(np.float32)
    logarithm = rounded(np.log, 1 - uniform[:, 0])
    radius, angle = np.sqrt(np.float32(-2) * logarithm), np.float32(2 * np.pi) * uniform[:, 1]
    return np.stack([radius * rounded(np.cos, angle), radius * rounded(np.sin, angle)], 1).reshape(shape)


def rounded(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return a function of float32 values, computed in float64 so that all machines round to the same result."""
    return function(values.astype(np.float64)).astype(np.float32)


def float_order(values: np.ndarray) -> np.ndarray:
    """Return integers in the order of the float32 values: neighbouring values have neighbouring integers."""
    bits = values.astype("<f4").view("<i4").astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def from_float_order(order: np.ndarray) -> np.ndarray:
    """Return the float32 values of `float_order`."""
    return np.where(order < 0, -order | 0x80000000, order).astype("<u4").view("<f4")


def by_type(tensors: Tensors) -> dict[str, list[np.ndarray]]:
    """Return the tensors grouped by data type, each group in its order."""
    groups: dict[str, list[np.ndarray]] = {}
    for value in tensors.values():
        groups.setdefault(value.dtype.str, []).append(value)
    return groups


def byte_planes(values: list[np.ndarray]) -> bytes:
    """Return first bytes of all numbers, then their second ones and so on: like compresses well beside like."""
    width = values[0].dtype.itemsize
    content = np.frombuffer(b"".join(value.tobytes() for value in values), np.uint8)
    return content.reshape(-1, width).T.tobytes()


def read_planes(content: bytes, index: Mapping[str, list]) -> dict[str, np.ndarray]:
    """Return the tensors whose `byte_planes`, type by type, are ``content``."""
    tensors, start = {}, 0
    for kind in dict.fromkeys(kind for kind, _ in index.values()):
        shapes = {name: shape for name, (other, shape) in index.items() if other == kind}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        width = np.dtype(kind).itemsize
        end = start + width * sum(sizes)
        numbers = np.frombuffer(content[start:end], np.uint8).reshape(width, -1).T.copy().view(kind).ravel()
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        tensors.update({name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)})
        start = end
    return {name: tensors[name] for name in index}


def digest(tensors: Tensors) -> str:
    """Return the SHA-256 of tensors: of their names, shapes and values."""
    content = sha256()
    for name in sorted(tensors):
        content.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}\n".encode())
        content.update(tensors[name].tobytes())
    return content.hexdigest()
