"""The measuring of loaders and decoders: every way is in the table, and what is said to be equal is."""

from pathlib import Path

import pytest
from PIL import Image

from contextcir.errors import InputError
from experiments.benchmarks import loading as loading_module
from experiments.benchmarks.decoding import decoding
from experiments.benchmarks.loading import loading


def rows_of(file: Path) -> list[list[str]]:
    lines = [line for line in file.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_loader_has_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(loading_module, "SIZE", (80, 60))
    tiny = {"images": 6, "triplets": 8, "batch": 4, "side": 32, "workers": 0, "repeats": 2}
    loading(**tiny, published=False, reduced=40, markdown=tmp_path / "table.md")
    rows = rows_of(tmp_path / "table.md")
    ways = ("FILES", "FIRST", "LATER", "NORMALISED", "CROPS", "CROPS_OF_COPIES")
    assert [row[0] for row in rows] == [getattr(loading_module, way) for way in ways]
    assert all(float(row[1].replace(",", "")) > 0 for row in rows) and rows[0][3] == "1.0"


def test_torchvision_decodes_the_same_pixels_and_draft_scaling_does_not(tmp_path, monkeypatch):
    decoding(images=2, side=64, markdown=tmp_path / "table.md")
    rows = rows_of(tmp_path / "table.md")
    assert len(rows) == 4 * 3
    for _, name, *_, equal, gap in rows:
        if "draft" in name:
            assert equal == "0 of 2" and int(gap) > 0
        else:
            assert equal == "yes" and gap == "0"


def test_jpegs_of_a_folder_are_measured_in_the_place_of_made_ones(tmp_path):
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "one.jpg")
    decoding(images=3, side=32, photos=tmp_path, markdown=tmp_path / "table.md")
    assert [row[0] for row in rows_of(tmp_path / "table.md")] == ["files"] * 3
    (tmp_path / "one.jpg").unlink()
    with pytest.raises(InputError, match=r"folder of JPEGs, found none.*photos"):
        decoding(photos=tmp_path)
