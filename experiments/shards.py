"""Pack images into tar shards with an index, or index tar shards that are there.

python -m experiments.shards --shards /disk/cirr_shards --images datasets/CIRR/img_raw
python -m experiments.shards --shards /disk/cirr_shards
"""

from pathlib import Path

from contextcir.checks import positive
from contextcir.errors import InputError
from data_modules.shards.writing import index_shards, pack_images
from experiments.command import command
from experiments.outputs import output_folder


def shards(shards: Path, images: Path | None = None, size: float = 1.0) -> None:
    """Write tar shards of the images below a folder, and the index by which `--data.shards` finds them.

    Copy the folder to an object store as it is, or train from it where it is. Interrupted, the same command goes on.

    Args:
        shards: Folder of the shards and the index.
        images: Folder of images, whose paths below it are those that annotations list; null to index the tar files of
            `shards` as they are (WebDataset's, for instance).
        size: Of a shard, in GB.
    """
    output_folder(shards, "shards")
    positive(size, "size")
    if images is not None:
        if not images.is_dir():
            raise InputError(f"no images below {images}: no such folder", setting="images")
        shards.mkdir(parents=True, exist_ok=True)
        pack_images(images, shards, max(1, round(size * 1e9)))
    count = index_shards(shards)
    print(f"{count:,} images in {len(list(shards.glob('*.tar')))} shards in {shards}")


def main() -> None:
    """Parse the command line."""
    command(shards)


if __name__ == "__main__":
    main()
