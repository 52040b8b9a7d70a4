"""Records of a stage by their keys, in any order, without holding them in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextcir.synthesis.shards import Shard


class Lookup:
    """What the shards of a stage hold when this is built; in memory are the keys, and where their records lie.

    A key that stands in several lines (a failure that came again) gives the last one.

    Args:
        folder: of the synthesis.
        stage: which records.

    Raises:
        ValueError: if a shard is damaged.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._shards = [Shard(path) for path in sorted((folder / stage).glob("*-of-*.jsonl"))]
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, shard in enumerate(self._shards):
            for start, records in shard.lines():
                for place, record in enumerate(records):
                    self._places[record["key"]] = (number, start, place)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        number, start, place = self._places[key]
        return self._shards[number].at(start)[place]
