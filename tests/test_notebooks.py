"""The notebooks of docs/notebooks: each runs from its first cell to its last, cut to size."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.paths import PROJECT

NOTEBOOKS = {path.stem: path for path in (PROJECT / "docs" / "notebooks").glob("*.ipynb")}
SMALL = {
    "search": 'COLOURS = ["red", "green", "blue"]',
    "own_loss": "STEPS, TRAIN_REFERENCES, REFERENCES = 2, 20, 3",
}


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_is_committed_without_outputs_and_begins_with_its_parameters(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = cells(notebook, "code")
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
    assert code[0].metadata.tags == ["parameters"] and 'find_spec("contextcir") is None' in code[1].source


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_runs_to_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("CIR_DATA", raising=False)
    notebook = read(name)
    parameters = cells(notebook, "code")[0]
    parameters.source += f"\n{SMALL[name]}"
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for cell in cells(notebook, "code") for o in cell.outputs)
    if name == "search":
        right = {kind: int(count) for kind, count in re.findall(r"^(.+): (\d+) of 12$", printed, re.MULTILINE)}
        assert "6 images" in printed and "encoded now: 6" in printed
        assert right["image and text"] > right["text alone"] > right["image alone"]
    else:
        assert "right: 0.00, wrong: 1.20" in printed and "one seed, 12 queries" in printed
        assert (tmp_path / "runs/margin/seed0/metrics.json").is_file()
