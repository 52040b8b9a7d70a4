"""Turn official files into manifests, for the data module `Manifest`.

python -m experiments.convert hotel --root datasets/hotel_cir --split train --out datasets/hotel_cir/train.jsonl
python -m experiments.convert cirr_rewritten --root datasets/CIRR --split train --out rewritten.jsonl
python -m experiments.convert lasco --root datasets/LaSCo --split val --out val.jsonl --gallery val_gallery.json
python -m experiments.convert megapairs --root datasets/MegaPairs --out datasets/MegaPairs/train.jsonl
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from contextcir.errors import InputError
from data_modules.converters import (
    Converter,
    HotelConverter,
    LaSCoConverter,
    RewrittenConverter,
    check_manifest,
    write_manifest,
)
from data_modules.streamed import MegaPairsConverter
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.outputs import output_file

CONVERTERS: dict[str, type[Converter]] = {
    "hotel": HotelConverter,
    "cirr_rewritten": RewrittenConverter,
    "lasco": LaSCoConverter,
}
STREAMED = "megapairs"


def build_parser() -> ArgumentParser:
    """Return the parser: one subcommand per official set, with the arguments of its converter."""
    parser = Parser(prog="python -m experiments.convert", description="Turn official files into manifests.")
    subcommands = parser.add_subcommands(dest="dataset")
    for name, converter in CONVERTERS.items():
        sub = Parser(description=(converter.__doc__ or "").partition("\n")[0])
        sub.add_class_arguments(converter, as_group=False)
        sub.add_argument("--out", type=Path, required=True, help="manifest to write, .json or .jsonl")
        sub.add_argument(
            "--gallery", type=Path | None, default=None, help="also write the gallery's image paths, .json"
        )
        sub.add_argument("--skip-broken", action="store_true", help="leave out records that can't be converted")
        subcommands.add_subcommand(name, sub)
    sub = Parser(description=(MegaPairsConverter.__doc__ or "").partition("\n")[0])
    sub.add_class_arguments(MegaPairsConverter, as_group=False)
    sub.add_argument("--out", type=Path, required=True, help="manifest to write, .jsonl")
    sub.add_argument("--skip-broken", action="store_true", help="leave out records that can't be converted")
    subcommands.add_subcommand(STREAMED, sub)
    return parser


def stream(converter: MegaPairsConverter, out: Path, skip_broken: bool = False) -> None:
    """Write the manifest of a set that is too large for memory; print what was done."""
    output_file(out, "out")
    print(f"{converter.write(out, skip_broken):,} triplets in {out}")
    _print_broken(converter.broken)


def _print_broken(broken: Counter[str]) -> None:
    if broken:
        print(f"records left out: {broken.total():,}")
        for reason, number in broken.most_common():
            print(f"  {number:,}: {reason}")


def convert(converter: Converter, out: Path, gallery: Path | None = None, skip_broken: bool = False) -> None:
    """Write the manifest, and the list of its gallery if that has a name; print what was done."""
    output_file(out, "out")
    output_file(gallery, "gallery")
    check_manifest(out, "out")
    if gallery is not None:
        check_manifest(gallery, "gallery", [".json"])
    given = converter.find_file().resolve()
    for path, setting in ((out, "out"), (gallery, "gallery")):
        if path is not None and path.resolve() in (given, out.resolve() if path is gallery else None):
            raise InputError("is another file of this command: expected a new name", file=path, setting=setting)
    conversion = converter.run(skip_broken)
    write_manifest(out, conversion.records)
    print(f"{len(conversion.records):,} triplets in {out}")
    if gallery is not None:
        write_manifest(gallery, conversion.gallery)
        print(f"{len(conversion.gallery):,} gallery images in {gallery}")
    _print_broken(conversion.broken)


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors():
        settings = build_parser().parse_args(args)
        chosen = settings[settings.dataset].as_dict()
        ours = {name: chosen.pop(name) for name in ("out", "gallery", "skip_broken") if name in chosen}
        try:
            if settings.dataset == STREAMED:
                stream(MegaPairsConverter(**chosen), **ours)
            else:
                convert(CONVERTERS[settings.dataset](**chosen), **ours)
        except InputError as error:
            raise (
                error.relocate("data.root", "root")
                .relocate("data.split", "split")
                .relocate("skip_broken", "skip-broken")
            ) from None


if __name__ == "__main__":
    main()
