"""The filter by a CLIP and the exports, through the command line."""

import json
from pathlib import Path

import pytest

from contextcir.synthesis.store import read_stage
from experiments.synthesize import main
from tests.helpers.make_data import write_image
from tests.helpers.synthesis_flags import PAIRS, flags

OVERLAY = """
filters:
  - class_path: contextcir.synthesis.filters.base.NamesNoImage
  - class_path: contextcir.synthesis.filters.base.Consistent
    init_args:
      consistency:
        class_path: contextcir.synthesis.filters.consistency.ClipConsistency
        init_args: {{model: "local-dir:{clip}", pretrained: null, margin: 0.0, batch_size: 8}}
write:
  exports:
    - contextcir.synthesis.outputs.exports.CIRRRewritten
    - contextcir.synthesis.outputs.exports.HotelCIR
    - contextcir.synthesis.outputs.exports.LaSCo
"""


def test_texts_are_judged_by_a_clip_and_exported(
    tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(OVERLAY.format(clip=clip_folder))
    for image in {image for pair in PAIRS for image in pair}:
        write_image(tmp_path / "photos" / image, image)
    out = tmp_path / "out"
    main(flags(tmp_path, out, f"--config={overlay}", f"--images={tmp_path / 'photos'}"))
    verdicts = list(read_stage(out, "filter"))
    assert len(verdicts) == 60 and all("direction" in verdict["scores"] for verdict in verdicts)
    kept = [verdict["key"] for verdict in verdicts if verdict["reason"] is None]
    assert {verdict["reason"] for verdict in verdicts} == {None, "fits the reference"}
    told = capsys.readouterr().out
    for name, pattern in (
        ("cirr_rewritten", "rewritten_captions/rewritten_{}.json"),
        ("hotel_cir", "captions/hotel_{}_data.json"),
        ("lasco", "downloads/lasco_{}.json"),
    ):
        files = [out / "exports" / name / pattern.format(split) for split in ("train", "val")]
        records = [record for file in files for record in json.loads(file.read_text())]
        texts = [text for record in records for text in record.get("difference_captions", [record])]
        assert len(texts) == len(kept) and f"write: {len(records):,} records in {out / 'exports' / name}" in told
    card = (out / "manifest" / "card.md").read_text()
    assert "| fits the reference |" in card and "exports:" in card
