"""The pairs of a synthesis, in a shard that the stages after it read."""

import json
from pathlib import Path
from typing import Any

from contextcir.synthesis.pair_files import PairSource, image_path
from contextcir.synthesis.runner import GROUP, Run, Tally, progress
from contextcir.synthesis.shards import read_stage

STAGE = "pairs"


def collect(run: Run, source: PairSource, settings: Any = None) -> Tally:
    """Write the pairs of a source; those that are there already are not written again.

    One process does it, and it is done once: what comes later reads the same pairs.

    Args:
        settings: plain values that say how the source is set up; other ones than those of the pairs that are there are
            an error.

    Raises:
        ValueError: if this is not the first shard of one, the pairs are those of other settings, or a path leads out
            of the image folder.
    """
    begun, done = (run.folder / STAGE / name for name in ("settings.json", "complete.json"))
    if begun.is_file() and (kept := json.loads(begun.read_text(encoding="utf-8"))) != settings:
        raise ValueError(
            f"{run.folder} holds pairs that were made with other settings ({kept}): give another --out, or change "
            "--pairs back"
        )
    if done.is_file():
        count = json.loads(done.read_text(encoding="utf-8"))["count"]
        return Tally(STAGE, total=count, before=count)
    if run.count > 1:
        raise ValueError(f"there are no pairs in {run.folder} yet: run --stage pairs first, without --shard")
    with run.claimed(STAGE), run.shard(STAGE) as shard:
        _write(begun, settings)
        known = {record["key"] for record in read_stage(run.folder, STAGE)}
        tally = Tally(STAGE, before=len(known), total=len(known))
        waiting: list[dict[str, Any]] = []
        with progress(tally) as bar:
            for pair in source.pairs():
                if pair.key in known:
                    continue
                known.add(pair.key)
                for image in (pair.reference, pair.target, *pair.image_set):
                    image_path(image, f"pair {pair.key}")
                waiting.append(pair.to_json())
                tally.done += 1
                if len(waiting) == GROUP:
                    shard.append(waiting)
                    bar.update(len(waiting))
                    waiting = []
            shard.append(waiting)
            bar.update(len(waiting))
        tally.total = tally.before + tally.done
        if not tally.total:
            raise ValueError("the source gives no pairs: change --pairs")
        _write(done, {"count": tally.total})
        return tally


def _write(path: Path, content: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)
