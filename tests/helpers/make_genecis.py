"""A tiny GeneCIS on disk with all four tasks, in the layouts that users have."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.make_data import write_image, write_json

OBJECTS = ["change_object", "focus_object"]
ATTRIBUTES = ["focus_attribute", "change_attribute"]


def make_genecis(root: Path, genome: tuple[str, ...] = ("VG_100K", "VG_100K_2"), coco: str = "val2017") -> Path:
    """Write all four tasks with three queries; Visual Genome's images are dealt out to the folders ``genome``."""
    for identity in range(1, 9):
        write_image(root / coco / f"{identity:012d}.jpg", str(identity))
        place = root / genome[identity % len(genome)] / f"{identity}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(identity).integers(0, 256, (4, 6, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((90, 60), Image.Resampling.NEAREST).save(place, quality=95)

    def shown(task: str, number: int) -> dict[str, object]:
        if task in OBJECTS:
            return {"val_image_id": 1 + number % 8}
        return {"image_id": 1 + number % 8, "instance_bbox": [number, 10.5, 20 + number, 30], "object_name": "cup"}

    for task in (*OBJECTS, *ATTRIBUTES):
        records = [
            {
                "condition": f"colour {query}",
                "reference": shown(task, query),
                "target": shown(task, query + 1),
                "gallery": [shown(task, query + 2 + other) for other in range(5)],
            }
            for query in range(3)
        ]
        write_json(root / "genecis" / f"{task}.json", records)
    return root
