"""The store of embeddings: what was written outlasts a kill, and belongs to one model, one list, one content."""

import signal
import subprocess
import sys
from pathlib import Path

import torch

from contextcir.embedders.store import EmbeddingStore, stamps_of
from tests.helpers.paths import PROJECT

TOLD = {"name": "m", "revision": "1", "instruction": "Find.", "dimension": 4, "licence": None}
ITEMS = [f"item {number}" for number in range(10)]
WRITER = """
import os, signal, sys, torch
from pathlib import Path
from contextcir.embedders.store import EmbeddingStore, stamps_of
from tests.embedders.test_store import ITEMS, TOLD
rows = EmbeddingStore(Path(sys.argv[1])).open(TOLD, "gallery", ITEMS, stamps_of(ITEMS))
for start in range(0, 8, 2):
    rows.write(torch.tensor([start, start + 1]), torch.full((2, 4), float(start)))
    if start == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def opened(folder: Path, kind: str = "gallery", items: list[str] = ITEMS, contents: list[str] = ITEMS, **told: object):
    return EmbeddingStore(folder).open({**TOLD, **told}, kind, items, stamps_of(contents))


def test_a_killed_process_leaves_all_that_it_had_stored(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], cwd=PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL
    rows = opened(tmp_path)
    assert [rows.has(row) for row in range(10)] == [True] * 6 + [False] * 4
    assert rows.read(5).tolist() == [4.0] * 4


def test_rows_are_those_of_one_model_one_kind_and_one_list(tmp_path: Path) -> None:
    opened(tmp_path).write(torch.arange(10), torch.ones(10, 4))
    assert opened(tmp_path).count() == 10
    assert opened(tmp_path, licence="MIT").count() == 10  # that changes no embedding
    assert opened(tmp_path, revision="2").count() == 0
    assert opened(tmp_path, instruction="Other.").count() == 0
    assert opened(tmp_path, kind="query").count() == 0
    assert opened(tmp_path, items=ITEMS[::-1]).count() == 0


def test_a_row_whose_content_has_changed_is_not_there(tmp_path: Path) -> None:
    opened(tmp_path).write(torch.arange(10), torch.ones(10, 4))
    changed = opened(tmp_path, contents=[*ITEMS[:3], "another image", *ITEMS[4:]])
    assert [row for row in range(10) if not changed.has(row)] == [3]
