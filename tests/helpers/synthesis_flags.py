"""Flags of a small synthesis with the scripted model, for tests that go through the command line."""

from pathlib import Path

from tests.helpers.synthesis_model import write_pairs

CONFIG = """
seed: 3
images: photos
pairs:
  class_path: contextcir.synthesis.pairs.PairFile
model:
  class_path: tests.helpers.synthesis_model.ScriptedModel
instruct:
  captions: [2]
filters:
  - class_path: contextcir.synthesis.filters.base.NamesNoImage
write:
  val_share: 0.2
  phrases: tests.helpers.word_parser.WordParser
"""
PAIRS = [(f"a{number // 2}.jpg", f"b{number}.jpg") for number in range(30)]  # 15 references
REQUESTS = 15 + 30 + 30


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    """Write config and pairs into a folder, and return the flags of a run that goes to ``out``."""
    config = folder / "synthesis.yaml"
    if not config.exists():
        config.write_text(CONFIG)
        write_pairs(folder / "pairs.json", PAIRS)
    return [f"--config={config}", f"--pairs.file={folder / 'pairs.json'}", f"--out={out}", *more]
