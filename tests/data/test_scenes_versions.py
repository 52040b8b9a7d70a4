"""Version 2 of the scenes: all files of version 1, unchanged, a hard split, and the kinds of queries."""

import json
from collections import Counter
from pathlib import Path

import pytest

from contextcir.errors import InputError
from data_modules import Scenes
from data_modules.scenes import STATE, ScenesReader, kinds_path, writer
from data_modules.scenes.answerable import BOUND, Unbound, answers
from data_modules.scenes.describer import SceneGraphs
from data_modules.scenes.reading import read
from data_modules.scenes.records import draw_base
from data_modules.scenes.writer import Size, is_complete, write_scenes
from experiments.scenes import main as scenes_command
from tests.data.test_scenes_files import digests

SIZE = Size(train_references=1, references=2, shared_references=1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders by version."""
    folders = {version: tmp_path_factory.mktemp("scenes") / str(version) for version in (1, 2)}
    for version, folder in folders.items():
        write_scenes(folder, 0, SIZE, workers=1, version=version)
    return folders


def test_version_2_holds_every_file_of_version_1_byte_by_byte_and_adds_to_it(drawn: dict[int, Path]) -> None:
    first, second = digests(drawn[1]), digests(drawn[2])
    assert json.loads((drawn[1] / STATE).read_text())["version"] == 1
    del first[STATE], second[STATE]
    assert first.items() <= second.items()
    added = {name for name in set(second) - set(first) if "img_raw/hard/" not in name}
    kinds = {f"captions/kinds.scenes.{split}.json" for split in ("val", "test", "test_unseen", "hard")}
    assert added == kinds | {"captions/cap.scenes.hard.json", "image_splits/split.scenes.hard.json"}


def test_a_folder_of_version_1_is_completed_without_touching_what_is_there(
    drawn: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, 0, SIZE, workers=1, version=1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.j*") if path.name != STATE}
    with pytest.raises(InputError, match="holds version 1 of its scenes, not 2, which adds to it"):
        Scenes(root, size=SIZE).prepare_data()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(writer, "_write_split", stop)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(root, 0, SIZE, workers=1)
    assert is_complete(root, 0, SIZE, 1) and not is_complete(root, 0, SIZE, 2)
    Scenes(root, True, size=SIZE).prepare_data()
    assert digests(root) == digests(drawn[2])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_of_version_2_serves_as_version_1_and_gives_its_figures_alone(drawn: dict[int, Path]) -> None:
    old, new, served = (Scenes(drawn[f], size=SIZE, version=v) for f, v in ((1, 1), (2, 2), (2, 1)))
    for data in (old, new, served):
        data.prepare_data()
    assert old.splits["test"] == served.splits["test"] == ("test", "test_unseen", "circo_test")
    assert new.splits["test"] == ("test", "test_unseen", "circo_test", "hard")
    for split in ("val", "test", "test_unseen"):
        assert served.read_evaluation(split).protocol == old.read_evaluation(split).protocol
        assert not any("answerable" in name for name in old.read_evaluation(split).protocol.strata)
    assert old.reader.list_splits() == served.reader.list_splits() == [*new.reader.list_splits()][:-1]


def test_every_metric_is_repeated_for_the_queries_of_each_kind(drawn: dict[int, Path]) -> None:
    reader = ScenesReader(drawn[2])
    for split in ("val", "test", "test_unseen"):
        kinds = [kind for number in range(SIZE.references) for kind in draw_base(0, split, number).kinds()]
        strata = reader.read_evaluation(split).protocol.strata
        wanted = {f"answerable_{k}": tuple(q for q, kind in enumerate(kinds) if kind == k) for k in set(kinds)}
        assert {name: queries for name, queries in strata.items() if name.startswith("answerable")} == wanted
        assert len(wanted) > 1


def test_a_file_of_kinds_that_lacks_a_query_or_names_another_kind_is_told(
    drawn: dict[int, Path], tmp_path: Path
) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, 0, SIZE, workers=1)
    path = kinds_path(root, "val")
    kinds = json.loads(path.read_text())
    path.write_text(json.dumps(kinds[:-1]))
    with pytest.raises(InputError, match="says nothing of pairid 7"):
        ScenesReader(root).read_evaluation("val")
    path.write_text(json.dumps([{**kinds[0], "answerable": "maybe"}, *kinds[1:]]))
    with pytest.raises(InputError, match="field answerable"):
        ScenesReader(root).read_evaluation("val")


def test_hard_queries_need_bound_attributes_and_leave_four_images_without(drawn: dict[int, Path]) -> None:
    graphs, concepts, roles = SceneGraphs(drawn[2]), Counter(), Counter()
    for record in json.loads((drawn[2] / "captions" / "cap.scenes.hard.json").read_text()):
        reference, statements = graphs.find(record["reference"]), read(record["caption"])
        others = [graphs.find(name) for name in record["roles"]]
        known = Unbound.of(reference)
        fitting = [
            role
            for role, other in zip(record["roles"].values(), others, strict=True)
            if answers(statements, other, known)
        ]
        assert len(fitting) == 3 and set(fitting) <= {"wrong object", "swapped"}
        concepts[record["concepts"]] += 1
        roles.update(fitting)
    assert concepts == Counter(dict.fromkeys((1, 2, 3, 4), SIZE.references)) and len(roles) == 2
    assert set(ScenesReader(drawn[2]).read_kinds("hard").values()) == {BOUND}


@pytest.mark.slow
def test_hard_references_are_all_bound() -> None:
    assert {kind for number in range(100) for kind in draw_base(7, "hard", number).kinds()} == {BOUND}


@pytest.mark.parametrize("version", [0, 3, True])
def test_a_version_that_does_not_exist_is_told(version: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"from 1 to 2, got .*\(data\.version\)"):
        Scenes(tmp_path, version=version)


def test_the_report_counts_the_queries_of_every_kind(
    drawn: dict[int, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = [f"--size.{name}={value}" for name, value in vars(SIZE).items()]
    monkeypatch.setattr("sys.argv", ["scenes", f"--root={drawn[2]}", *size, "--report=true"])
    scenes_command()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[0] == ["split", "concepts", "text", "unbound", "bound", "several"]
    assert ["hard", "all", "0", "0", str(4 * SIZE.references), "0"] in rows and [
        "hard",
        "1",
        "0",
        "0",
        "2",
        "0",
    ] in rows
    for split in ("val", "test", "test_unseen"):
        kinds = Counter(kind for number in range(SIZE.references) for kind in draw_base(0, split, number).kinds())
        assert [split, "all", *(str(kinds[kind]) for kind in rows[0][2:])] in rows
        assert sum(int(n) for row in rows if row[0] == split for n in row[2:]) == 2 * 4 * SIZE.references
