"""Broken inputs, files and folders, through the command line: one line each, and what was done before is kept."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextcir.synthesis import store
from contextcir.synthesis.store import encode, read_stage
from experiments.synthesize import main
from tests.helpers.model_faults import error
from tests.helpers.model_server import ModelServer
from tests.helpers.synthesis_flags import PAIRS, REQUESTS, flags
from tests.helpers.synthesis_model import asked

DEEP = "[" * 100_000


def fails(args: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must end with one line; return it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as failure:
        main(args)
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "items" not in line]
    assert failure.value.code in (1, 2) and lines[-1].startswith("error: "), lines
    assert "Traceback" not in "".join(lines) and lines[-1].isprintable() and len(lines[-1]) <= 310, lines[-1]
    for word in words:
        assert word in lines[-1], lines[-1]
    return lines[-1]


PAIR_FILES: list[tuple[str, bytes, str]] = [
    ("p.json", b'[{"reference": "a", "target": "b", "target": "c"}]', "twice"),
    ("p.json", DEEP.encode(), "nested too deeply"),
    ("p.json", b'[{"reference": "a", "target": ' + b"9" * 400 + b"}]", "400 digits"),
    ("p.json", b'[{"reference": "a", "target": NaN}]', "NaN"),
    ("p.json", b"\xff\xfe[]", "UTF-8"),
    ("p.json", b"", "not valid JSON"),
    ("p.json", b"{}", "expected a JSON list"),
    ("p.json", b'[{"reference": "a", "target": "../../x"}]', "leads out"),
    ("p.json", b'[{"reference": "' + b"a" * 9000 + b'", "target": "a\\n"}]', "expected the path"),
    ("p.json", b'[{"reference": "a", "target": ".."}]', "leads out"),
    ("p.json", b'[{"reference": "a", "target": "."}]', "expected the path"),
    ("p.json", b'[{"reference": "a", "target": ""}]', "expected the path"),
    ("p.json", b'[{"reference": "a", "target": "b", "image_set": ["../x"]}]', "leads out"),
    ("p.json", b'[{"reference": "a", "target": "b", "image_set": "abc"}]', "image_set"),
    ("p.json", b'[{"reference": "a", "target": "b", "image_set": ["1","2","3","4","5","6","7"]}]', "image_set"),
    ("p.json", b"[3]", "the fields reference and target"),
    ("p.jsonl", b'{"reference": "a", "target": "b"}\n{"reference": "a",\n', "line 2"),
    ("p.JSONL", b'{"reference": "a", "target": "b"}\n\xff\n', "line 2"),
    ("p.jsonl", b"\n\n", "no pairs"),
    ("p.json", b"[]", "no pairs"),
]


@pytest.mark.parametrize(("name", "content", "words"), PAIR_FILES)
def test_a_bad_file_of_pairs_is_one_line(
    name: str, content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    args = ["--pairs=PairFile", f"--pairs.file={tmp_path / name}", f"--out={tmp_path / 'out'}", "--stage=pairs"]
    fails(args, capsys, words)


def test_pairs_are_read_from_a_list_over_many_lines_of_a_jsonl(tmp_path: Path) -> None:
    records = [{"reference": one, "target": other} for one, other in PAIRS]
    (tmp_path / "p.jsonl").write_text(json.dumps(records, indent=2))
    (tmp_path / "q.JSONL").write_text("\ufeff" + "\n".join(map(json.dumps, records)))
    for name in ("p.jsonl", "q.JSONL"):
        main(["--pairs=PairFile", f"--pairs.file={tmp_path / name}", f"--out={tmp_path / name[0]}", "--stage=pairs"])
        assert len(list(read_stage(tmp_path / name[0], "pairs"))) == len(PAIRS)


@pytest.mark.parametrize(
    "flag", ["pairs.file", "describe.reference_prompt", "describe.target_prompt", "instruct.prompt"]
)
def test_what_is_no_file_is_told_with_its_setting(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pipe", "folder", "binary", "empty", "none"):
        line = fails(flags(tmp_path, tmp_path / "out", f"--{flag}={tmp_path / name}"), capsys, name)
        assert f"--{flag}" in line
    assert not (tmp_path / "out").exists() or not list(read_stage(tmp_path / "out", "pairs"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config, pairs and a finished synthesis in ``whole``."""
    folder = tmp_path_factory.mktemp("done")
    main(flags(folder, folder / "whole"))
    return folder


@pytest.fixture
def done(finished: Path) -> Path:
    """The same, with a copy in ``out`` that may be damaged."""
    shutil.rmtree(finished / "out", ignore_errors=True)
    shutil.copytree(finished / "whole", finished / "out")
    return finished


def foreign(name: str, **changes: Any) -> Callable[[Path], object]:
    """Return what changes the first record of a stage, with a checksum that fits."""

    def change(out: Path) -> None:
        (path,) = (out / name).glob("*.jsonl")
        first, *rest = path.read_bytes().splitlines(keepends=True)
        value = json.loads(first.partition(b" ")[2])
        value = value[0] if isinstance(value, list) else value
        for key, new in changes.items():
            if new is ...:
                del value[key]
            else:
                value[key] = new
        path.write_bytes(encode(value) + b"".join(rest))

    return change


def raw(name: str, content: bytes) -> Callable[[Path], object]:
    def change(out: Path) -> None:
        (path,) = (out / name).glob("*.jsonl")
        path.write_bytes(store._checksum(content) + b" " + content + b"\n" + path.read_bytes())

    return change


def twice(out: Path) -> None:
    record = next(read_stage(out, "describe"))
    (out / "describe" / "00001-of-00002.jsonl").write_bytes(encode({**record, "target": []}))


def swapped(path: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(out: Path) -> None:
        target = out / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        make(target)

    return change


FOLDERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("write", foreign("pairs", colour="red"), "'colour'"),
    ("write", foreign("pairs", reference=...), "no field 'reference'"),
    ("write", foreign("pairs", reference="../../etc/passwd"), "reference"),
    ("write", foreign("instruct", caption=3), "caption"),
    ("write", foreign("filter", key=["k"]), "key"),
    ("filter", foreign("describe", reference="x"), "reference"),
    ("filter", foreign("instruct", provenance={"usage": [1]}), "provenance"),
    ("instruct", foreign("describe", target=[{"object": "cup"}]), "target"),
    ("describe", foreign("describe-reference", objects=None), "objects"),
    ("describe", raw("pairs", DEEP.encode()), "nested too deeply"),
    ("describe", raw("pairs", b'{"key": ' + b"9" * 400 + b"}"), "400 digits"),
    ("describe", raw("pairs", b"\xff"), "UTF-8"),
    ("describe", raw("pairs", b'{"key": "a", "key": "b"}'), "twice"),
    ("describe", raw("pairs", b"3"), "a record with a key"),
    ("write", twice, "stands twice"),
    ("describe", swapped("pairs/00000-of-00001.jsonl", os.mkfifo), "a named pipe"),
    ("describe", swapped("pairs/00000-of-00001.jsonl", Path.mkdir), "a folder"),
    ("pairs", swapped("pairs/complete.json", lambda path: path.write_text("{}")), "complete.json"),
    ("pairs", swapped("pairs/complete.json", lambda path: path.write_text("{")), "complete.json"),
    ("instruct", swapped("pairs", Path.mkdir), "a shard is missing"),
    ("write", swapped("instruct", Path.mkdir), "a shard is missing"),
]


@pytest.mark.parametrize(("stage", "change", "words"), FOLDERS)
def test_a_damaged_folder_is_one_line(
    stage: str, change: Callable[[Path], object], words: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(done / "out")
    fails(flags(done, done / "out", f"--stage={stage}"), capsys, words)


@pytest.mark.parametrize("stage", ["describe", "instruct", "filter", "write"])
def test_a_stage_before_its_turn_says_what_to_run(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(flags(tmp_path, tmp_path / "out", f"--stage={stage}"), capsys, "run it first")


MISSING = "tests.helpers.no_such_module.Thing"


def test_a_stage_needs_nothing_of_the_others(tmp_path: Path) -> None:
    """Settings of other stages are not required, and where they are given, neither imported nor built."""
    flags(tmp_path, tmp_path / "out")
    out = f"--out={tmp_path / 'out'}"
    images, seed = f"--images={tmp_path}", "--seed=3"
    model = ["--model=tests.helpers.synthesis_model.ScriptedModel"]
    for stage, own in {
        "pairs": ["--pairs=PairFile", f"--pairs.file={tmp_path / 'pairs.json'}"],
        "describe": [*model, images],
        "instruct": model,
        "filter": ["--filters=[NamesNoImage]", images],
        "write": [images],
    }.items():
        others = {"pairs", "model", "filters", "write.phrases", "describe.reference_prompt"} - {
            flag[2:].partition("=")[0] for flag in own
        }
        main([*own, out, seed, f"--stage={stage}"])
        given = [f"--{name}={MISSING}" for name in others if not stage.startswith(name.partition(".")[0])]
        config = tmp_path / f"{stage}.yaml"
        unused = {"pairs": {"class_path": MISSING}, "filters": [{"class_path": MISSING}]}
        unused["model"] = {"class_path": MISSING, "init_args": {"url": "none"}}
        kept = {name: value for name, value in unused.items() if name in others}
        config.write_text(json.dumps(kept | ({} if stage == "write" else {"write": {"phrases": MISSING}})))
        main([f"--config={config}", *own, out, seed, f"--stage={stage}", *given])


@pytest.mark.parametrize(
    ("stage", "setting"), [("pairs", "pairs"), ("describe", "images"), ("instruct", "model"), ("filter", "images")]
)
def test_a_setting_that_a_stage_needs_is_named(
    stage: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails([f"--out={tmp_path}", f"--stage={stage}"], capsys, f"(--{setting})")


def test_the_words_of_a_server_are_in_the_report_and_in_the_last_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    from tests.helpers.make_data import write_image

    for image in {image for pair in PAIRS for image in pair}:
        write_image(tmp_path / "photos" / image, image)
    told = "this model\x1b[31m reads no images: start the server with --limit-mm-per-prompt" + " and so on" * 99
    with ModelServer(script=lambda number, body: error(400, told, "bad")) as server:
        model = ["--model=Endpoint", f"--model.url={server.url}", "--model.chat.model=m"]
        args = flags(tmp_path, tmp_path / "out", *model, f"--images={tmp_path / 'photos'}")
        with pytest.raises(SystemExit) as failure:
            main(args)
    found = capsys.readouterr()
    report = found.out.splitlines()
    assert failure.value.code == 1 and "15 bad request; the first bad request: 400: this model" in report[1]
    last = found.err.splitlines()[-1]
    assert "reads no images" in last and last.isprintable() and len(last) <= 310


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    args = flags(tmp_path, out, f"--model.log={log}")
    whole = store.write_all
    writes = 0

    def full(file: Any, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes % 4 == 0:
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_all", full)
        for _ in range(4):
            line = fails(args, capsys, "No space left on device", "(--out)")
            assert ".jsonl" in line
    main(args)
    assert len(set(asked(log))) == REQUESTS
    for stage, count in (("pairs", 30), ("describe-reference", 15), ("describe", 30), ("instruct", 60), ("filter", 60)):
        keys = [record["key"] for record in read_stage(out, stage)]
        assert len(keys) == count == len(set(keys))


def test_a_manifest_that_can_not_be_written_leaves_the_old_one(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (done / "out" / "manifest").iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        fails(flags(done, done / "out", "--stage=write"), capsys, "No space left on device", "--out")
    assert {path.name: path.read_bytes() for path in (done / "out" / "manifest").iterdir()} == before


def test_the_card_shows_public_settings_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    secret = "sk-very-secret"
    config = tmp_path / "more.yaml"
    config.write_text(f"model:\n  init_args:\n    failing: [{secret}]\n")
    main(flags(tmp_path, out, f"--config={config}"))
    card = (out / "manifest" / "card.md").read_text()
    assert "class_path: ScriptedModel" in card and "val_share: 0.2" in card and "captions: [2]" in card
    assert secret not in card and str(tmp_path) not in card


def test_nothing_kept_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = flags(tmp_path, tmp_path / "out", "--filters=[{class_path: Length, init_args: {fewest_words: 999}}]")
    fails(args, capsys, "no instruction was kept", "60 too short")


def test_one_photo_and_no_pair_in_the_band_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    from tests.helpers.mining_cases import draw_photos

    encoder = '{"class_path": "tests.helpers.mining_cases.PixelEncoder"}'
    mined = ["--pairs=MinedPairs", f"--pairs.encoder={encoder}", "--pairs.loading.workers=0", "--stage=pairs"]
    one, two = draw_photos(tmp_path / "one", 1, 1), draw_photos(tmp_path / "two", 4, 1)
    fails([*mined, f"--images={one}", f"--out={tmp_path / 'a'}"], capsys, "one image makes no pair", "(--images)")
    fails([*mined, f"--images={two}", f"--out={tmp_path / 'b'}"], capsys, "no pairs", "report.json", "(--pairs)")
    work = tmp_path / "b" / "pairs-work"
    for name in ("about.json", "files.json", "vectors.npy", "kept.npy", "unreadable.json", "cosines.npy"):
        kept = (work / name).read_bytes()
        for content in (b"", kept[: len(kept) // 2], b"{}"):
            (work / name).write_bytes(content)
            word = "pairs-work" if name == "about.json" else name
            fails([*mined, f"--images={two}", f"--out={tmp_path / 'b'}"], capsys, word)
        (work / name).write_bytes(kept)
