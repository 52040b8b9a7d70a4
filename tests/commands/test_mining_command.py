"""Mining through the command line: with the small CLIP on drawn scenes, and the config for photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contextcir.synthesis.store import read_stage
from experiments.synthesize import build_parser, main
from tests.helpers.mining_cases import draw_photos
from tests.helpers.paths import PROJECT
from tests.helpers.scenes_flags import CONFIGS, draw

CONFIG = """
pairs:
  class_path: contextcir.synthesis.mining.MinedPairs
  init_args:
    loading: {batch_size: 16, workers: 0, chunk: 50}
    uses: {as_reference: 2, as_target: 2}
model:
  class_path: tests.helpers.synthesis_model.ScriptedModel
filters: []
write: {val_share: 0.2}
"""

pytest.importorskip("faiss", reason="needs the extra `synthesis`")
pytest.importorskip("imagehash", reason="needs the extra `synthesis`")


def flags(folder: Path, images: Path, *more: str) -> list[str]:
    (folder / "synthesis.yaml").write_text(CONFIG)
    return [f"--config={folder / 'synthesis.yaml'}", f"--images={images}", f"--out={folder / 'out'}", *more]


SCENES = [
    "--pairs.encoder={class_path: ClipEncoder, init_args: {model: scenes-vit, pretrained: null}}",
    "--pairs.duplicates=SameFile",
    "--pairs.band.low=0.8",
    "--pairs.band.high=0.9999",
]


def test_pairs_of_unlabelled_scenes_by_the_small_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = draw(tmp_path / "scenes") / "img_raw"
    capsys.readouterr()
    main(flags(tmp_path, images, "--stage=pairs", *SCENES))
    pairs = list(read_stage(tmp_path / "out", "pairs"))
    assert len(pairs) > 20 and capsys.readouterr().out == f"pairs: {len(pairs)} done, 0 were done before, 0 failed\n"
    assert {pair["source"] for pair in pairs} == {"mined"}
    assert max(len(pair["image_set"]) for pair in pairs) == 6
    assert all((images / path).is_file() for pair in pairs for path in pair["image_set"])
    report = json.loads((tmp_path / "out" / "pairs-work" / "report.json").read_text())
    assert report["pairs"] == len(pairs) and report["readable"] == len(list(images.rglob("*.jpg")))
    main(flags(tmp_path, images, "--stage=pairs", *SCENES))
    assert f"{len(pairs)} were done before" in capsys.readouterr().out


def test_all_stages_from_images_alone_over_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = draw_photos(tmp_path / "photos")
    clip = [*SCENES, "--pairs.band.low=-1"]
    for index in range(2):
        main(flags(tmp_path, images, "--stage=pairs", f"--shard={index}/2", *clip))
    assert "run the stage once more without a shard" in capsys.readouterr().out
    main(flags(tmp_path, images, *clip))
    records = [json.loads(line) for line in (tmp_path / "out/manifest/train.jsonl").read_text().splitlines()]
    assert records and all("image_set" in record for record in records)
    assert {record["provenance"]["source"] for record in records} == {"mined"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--pairs.encoder.model=local-dir:none"], "none"),
        (["--pairs.encoder=ClipEncoder", "--pairs.encoder.pretrained=nobody"], "pretrained"),
        (["--images=nowhere"], "no folder nowhere (--images)"),
    ],
)
def test_an_error_is_one_line(more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(flags(tmp_path, draw_photos(tmp_path / "photos"), "--stage=pairs", *SCENES, *more))
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and words in message


def test_the_config_for_photographs_is_read_and_may_be_changed_by_flags(tmp_path: Path) -> None:
    parser = build_parser()
    changed = ["--images=mine", "--pairs.band.low=0.6", "--pairs.search=ExactSearch", "--model.chat.model=other"]
    settings = parser.parse_args([f"--config={CONFIGS / 'synthesis' / 'photos.yaml'}", *changed])
    pairs = settings.pairs.init_args
    assert (pairs.encoder.init_args.model, pairs.encoder.init_args.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert (pairs.band.low, pairs.band.high) == (0.6, 0.95)
    assert pairs.search.class_path == "contextcir.synthesis.mining.ExactSearch"
    assert settings.model.init_args.chat.model == "other" and settings.images == Path("mine")
    assert len(settings.filters) >= 5
    again = tmp_path / "again.yaml"
    again.write_text(parser.dump(settings))
    assert parser.dump(parser.parse_args([f"--config={again}"])) == parser.dump(settings)


def test_help_of_the_config_for_photographs_names_the_settings_of_mining() -> None:
    config = f"--config={CONFIGS / 'synthesis' / 'photos.yaml'}"
    command = [
        sys.executable,
        "-m",
        "experiments.synthesize",
        config,
        "--pairs.help",
        "contextcir.synthesis.mining.MinedPairs",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    for setting in (
        "--pairs.encoder",
        "--pairs.band.low",
        "--pairs.uses.as_target",
        "--pairs.most",
        "--pairs.duplicates",
    ):
        assert setting in done.stdout
    assert "How similar the images of a pair are" in done.stdout
