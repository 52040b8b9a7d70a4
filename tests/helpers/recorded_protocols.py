"""What every protocol says of itself and answers, recorded: python -m tests.helpers.recorded_protocols writes it anew.

An entry is one split of one benchmark on the small copies that the tests make: its version, what `Protocol.describe`
returns, and a digest of the figures that fixed random embeddings get. Whoever changes one of the last two by a change
that gives other figures for the same files and embeddings raises ``protocol_version`` of the reader; see
docs/benchmarks.md for what is such a change.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.protocol import Protocol
from data_modules.readers import READERS
from data_modules.reading.reader import BenchmarkReader
from tests.helpers.make_data import make_circo, make_cirr, write_json
from tests.helpers.make_fashioniq import make_fashioniq
from tests.helpers.make_genecis import make_genecis
from tests.helpers.make_lasco import make_lasco
from tests.helpers.make_newer import make_icir, make_patterncom, make_pinpoint
from tests.helpers.scenes_flags import draw

RECORD = Path(__file__).parents[1] / "data" / "recorded_protocols.json"
WIDTH, DRAWS = 8, 10


def make_manifest(root: Path) -> Path:
    """Write a manifest with every field that is scored."""
    records = [
        {"reference": "a", "target": "b", "caption": "red", "query_group": 1, "further_targets": ["c"], "concepts": 1},
        {"reference": "a", "target": "b", "caption": "make it red", "query_group": 1, "negatives": ["d", "e"]},
        {"reference": "c", "target": "d", "caption": "both", "query_group": 2, "further_references": ["e"]},
    ]
    write_json(root / "val.json", records)
    return root


MAKERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "cirr": (make_cirr, ("val", "test1")),
    "circo": (make_circo, ("val", "test")),
    "fashioniq": (make_fashioniq, ("val_dress",)),
    "lasco": (make_lasco, ("val",)),
    "genecis": (make_genecis, ("focus_object", "change_attribute")),
    "scenes": (draw, ("val", "hard", "circo_val")),
    "manifest": (make_manifest, ("val",)),
    "cirr_mteb": (make_cirr, ("val",)),
    "icir": (make_icir, ("test",)),
    "pinpoint": (make_pinpoint, ("test",)),
    "patterncom": (make_patterncom, ("density",)),
}


def entry_of(reader: BenchmarkReader, split: str) -> dict[str, Any]:
    """Return the record of a split."""
    protocol = reader.read_evaluation(split).protocol
    described = json.loads(json.dumps(protocol.describe()))
    version = described.pop("version")
    return {"version": version, "protocol": described, "answers": digest(figures(protocol))}


def figures(protocol: Protocol) -> dict[str, float]:
    """Return all figures, and the nDCG, of fixed random embeddings of the records and the gallery, drawn repeatedly."""
    generator, found = torch.Generator().manual_seed(17), {}
    records, images = len(protocol.record_queries()), len(protocol.gallery)
    for number in range(DRAWS):
        metric = CompositionMetric(protocol)
        metric.update_gallery(torch.arange(images), torch.randn(images, WIDTH, generator=generator))
        metric.update_queries(torch.arange(records), torch.randn(records, WIDTH, generator=generator))
        found |= {f"{number} {name}": value.item() for name, value in metric.figures().items()}
        found |= {f"{number} gain {name}": rows["composed"] for name, rows in metric.gains().items()}
    return found


def digest(values: dict[str, float]) -> str:
    """Return a digest of figures, rounded so that it is the same on every machine."""
    text = json.dumps({name: round(value, 2) for name, value in sorted(values.items())})
    return sha256(text.encode()).hexdigest()[:16]


def entries(folder: Path, benchmark: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the record of every split of a benchmark, of which a small copy is made in a folder."""
    make, splits = MAKERS[benchmark]
    make(folder)
    reader = READERS[benchmark](folder)
    for split in splits:
        yield f"{benchmark} {split}", entry_of(reader, split)


def main() -> None:
    """Write the record of all benchmarks."""
    recorded: dict[str, Any] = {}
    for benchmark in MAKERS:
        with tempfile.TemporaryDirectory() as folder:
            recorded |= dict(entries(Path(folder) / benchmark, benchmark))
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
