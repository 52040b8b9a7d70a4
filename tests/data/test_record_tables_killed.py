"""A conversion that is killed goes on: no complete part is made again, and the table is that of a whole run."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from contextcir.errors import InputError
from data_modules.arrow.stream import RecordStream
from data_modules.arrow.table import ABOUT, RecordTable
from data_modules.arrow.writer import TableWriter
from data_modules.manifest import ManifestReader
from tests.data.test_record_tables import entries, write_lines

pytest.importorskip("pyarrow")

PART = 200


class Slow(RecordStream):
    """A stream that takes its time, and tells what was read from where."""

    def __init__(self, stream: RecordStream, pause: float, log: Path) -> None:
        self.stream, self.pause, self.log = stream, pause, log
        self.file, self.paths = stream.file, stream.paths

    def read(self, state=None):
        with self.log.open("a") as log:
            log.write(f"{(state or {}).get('record', 0)}\n")
        for block in self.stream.read(state):
            time.sleep(self.pause)
            yield block


def convert(reader: ManifestReader, folder: Path, pause: float, log: Path) -> None:
    import data_modules.reading.manifest_lines as lines

    lines.BLOCK = 50
    TableWriter(folder, PART).write(Slow(reader.training_stream("train"), pause, log))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_a_process(*arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=convert, args=arguments)
    process.start()
    return process


def parts(folder: Path) -> int:
    return len(list(folder.glob("records-*.arrow.json")))


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_leave_nothing_wrong(tmp_path: Path) -> None:
    reader = ManifestReader(write_lines(tmp_path / "set", entries(6000, images=300), images=0))
    expected = reader.read_training("train")
    in_a_process(reader, tmp_path / "whole", 0, tmp_path / "log").join(120)
    folder, log, draw, kept = tmp_path / "kept", tmp_path / "begun", random.Random(3), []
    for attempt in range(10):
        process = in_a_process(reader, folder, 0.02, log)
        deadline, wanted = time.monotonic() + 60, parts(folder) + (attempt % 3)
        while parts(folder) < wanted and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        kept.append(parts(folder))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (folder / ABOUT).exists(), "the last kill came too late to test anything"
        with pytest.raises(InputError, match="is no complete table"):
            RecordTable(folder)
    assert kept == sorted(kept) and kept[-1] >= 8, "each goes on where the one before was"
    process = in_a_process(reader, folder, 0, log)
    process.join(120)
    assert process.exitcode == 0
    begun = list(map(int, log.read_text().split()))
    assert begun == sorted(begun) and begun[-1] == kept[-1] * PART, "what was complete was not read again"
    assert tuple(RecordTable(folder)) == expected.records
    found, whole = files_of(folder), files_of(tmp_path / "whole")
    assert found == whole, "to the last byte, and no file was left behind"


def test_a_kill_of_any_step_leaves_what_can_be_finished(tmp_path: Path) -> None:
    """Each state that a kill can leave, made by taking files away in the reverse of the order they are written in."""
    reader = ManifestReader(write_lines(tmp_path / "set", entries(30), images=0))
    TableWriter(tmp_path / "whole", 10).write(reader.training_stream("train"))
    whole = files_of(tmp_path / "whole")
    states = [{}, {"records-00000.arrow": whole["records-00000.arrow"]}, {".numbers.npy.9-ab.new": b"half"}]
    states += [{"numbers.npy": b"half", "about.json.7-cd.new": b"{"}, {"images.arrow": whole["images.arrow"]}]
    for number, files in enumerate(states):
        folder = tmp_path / f"kept{number}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        assert tuple(TableWriter(folder, 10).write(reader.training_stream("train"))) == reader.read_training("train")[0]
        assert files_of(folder) == whole


def test_processes_that_convert_at_once_make_one_table(tmp_path: Path) -> None:
    reader = ManifestReader(write_lines(tmp_path / "set", entries(900), images=0))
    log = tmp_path / "log"
    processes = [in_a_process(reader, tmp_path / "kept", 0.01, log) for _ in range(3)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "0\n", "one of them read"
    about = json.loads((tmp_path / "kept" / ABOUT).read_text())
    assert about["records"] == len(RecordTable(tmp_path / "kept")) == 900
