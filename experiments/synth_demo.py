"""Unlabelled scenes to pairs to triplets to a fit, compared with a fit on hand-made triplets, and on both: tables.

python -m experiments.synth_demo [--publish docs/studies] [--jobs 2] [--trainer.accelerator=cpu]

Finished work is kept: the same command continues where it was stopped. Flags like --data.*, --model.*, --trainer.* and
--config go to all fits (experiments.study).
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import yaml
from jsonargparse import auto_cli

from contextcir.errors import InputError, MissingFileError
from contextcir.files import write_text
from data_modules.scenes.writer import Size, image_path, write_scenes
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.outputs import output_folder, runs_folder
from experiments.quality.synthesis_precision import judge_run, markdown, score
from experiments.study.__main__ import split_flags

HERE = Path(__file__).parent
CONFIGS = HERE / "configs" / "synthesis"
EXACT = ("scenes.yaml", "scenes_mined.yaml")
FAULTY = (*EXACT, "scenes_faulty.yaml")  # for the same pairs
TITLES = {"synthesis": "Exact describer", "faulty": "Describer with faults in 30 % of the targets"}
TRAIN = Path("img_raw") / "train"  # below the root of scenes: the folder that image paths of manifests are relative to
KEPT = ("caption", "concepts", "phrases", "image_size")  # fields that hand-made and synthetic records share


def synth_demo(
    out: Path | None = None,
    root: Path = Path("datasets/scenes"),
    size: Size = Size(),  # noqa: B008  (immutable)
    unlabelled: Path = Path("datasets/scenes-unlabelled"),
    unlabelled_references: int = 175,
    triplets: int = 4000,
    study: Path = HERE / "studies" / "synthesis.yaml",
    jobs: int = 1,
    publish: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Make triplets of unlabelled scenes, score them, and compare fits on them with fits on hand-made ones.

    Args:
        out: Folder of the synthesis, the manifests and the fits; runs/synth-demo by default.
        root: Of the benchmark, with the hand-made triplets; drawn if it does not exist.
        size: Of the benchmark.
        unlabelled: Folder of other scenes, whose annotations are not used; drawn if it does not exist.
        unlabelled_references: Size of that: 11 images each.
        triplets: At most; the fit on hand-made ones gets as many.
        study: The fits.
        jobs: Fits at a time.
        publish: Folder to copy tables and figure to.
        flags: More flags for all fits; those of --data, --model, --trainer and --config need no `--flags`.
    """
    out = out or runs_folder("synth-demo")
    for folder, setting in {out: "out", root: "root", unlabelled: "unlabelled", publish: "publish"}.items():
        output_folder(folder, setting)
    write_scenes(root, 0, size)
    write_scenes(unlabelled, 1, Size(unlabelled_references, 1, 1))
    run = out / "synthesis"
    for name, configs in {"synthesis": EXACT, "faulty": FAULTY}.items():
        make_triplets(out / name, unlabelled, triplets, configs)
    tables = precision(out, unlabelled)
    print(tables, flush=True)
    synthetic, hand, data = run / "manifest" / "train.jsonl", out / "hand_made.jsonl", out / "data.yaml"
    write_records(hand_made(root, count_records(synthetic)), hand)
    data.write_text(yaml.safe_dump(study_data(root, size, hand, unlabelled, synthetic), sort_keys=False))
    name = f"{study.stem}_precision.md"
    write_text(out / name, tables)
    run_study(study, out, data, jobs, publish, flags)
    if publish is not None:
        write_text(publish / name, tables)
        print(publish / name)


def make_triplets(run: Path, scenes: Path, most: int, configs: Sequence[str]) -> None:
    """Mine pairs among the training images of scenes, and make a manifest of texts about them."""
    folders = [f"--out={run}", f"--images={scenes / TRAIN}", f"--model.root={scenes}"]
    files = [f"--config={CONFIGS / name}" for name in configs]
    command("experiments.synthesize", *files, *folders, f"--pairs.most={most}", "--write.val_share=0")


def precision(out: Path, scenes: Path) -> str:
    """Return the tables of how many texts are true of their pair and complete."""
    parts = [f"## {title}\n\n{markdown(score(judge_run(out / name, scenes)))}\n" for name, title in TITLES.items()]
    return "\n".join(["# Precision of synthetic texts on Scenes\n", *parts])


def run_study(study: Path, out: Path, data: Path, jobs: int, publish: Path | None, flags: Sequence[str]) -> None:
    """Run the fits, and make their tables."""
    here = Path.cwd()
    file = study.relative_to(here) if study.is_relative_to(here) else study  # the report shows this path
    own = [f"--config={data}", f"--out={out / 'study'}", f"--jobs={jobs}"]
    own += [] if publish is None else [f"--publish={publish}"]
    command("experiments.study", str(file), *own, *flags)


def command(module: str, *flags: str) -> None:
    """Run a command of this project in a process of its own, so that its memory is free afterwards.

    Raises:
        ValueError: if it fails; it has printed the reason.
    """
    done = subprocess.run([sys.executable, "-m", module, *flags], check=False)  # noqa: S603  (this project's own modules, no shell)
    if done.returncode:
        raise ValueError(f"{module} ended with status {done.returncode}: see its last lines")


def count_records(manifest: Path) -> int:
    """Return the number of triplets of a manifest; raises MissingFileError if there is none."""
    if not manifest.is_file():
        raise MissingFileError(f"no file {manifest}: give another folder, so that it is made again", setting="out")
    with manifest.open(encoding="utf-8") as file:
        return sum(1 for line in file if line.strip())


def hand_made(root: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return some training triplets of a benchmark as records of a manifest: all of drawn references, a part of the
    last one's.

    Args:
        root: of the benchmark.
        count: number of triplets.
        seed: draws the references.

    Raises:
        InputError: if there are fewer.
    """
    listed = json.loads((root / "captions" / "cap.scenes.train.json").read_text(encoding="utf-8"))
    if len(listed) < count:
        raise InputError(
            f"{root} holds {len(listed):,} hand-made triplets, fewer than the {count:,} synthetic ones: draw more "
            "references, or make fewer triplets",
            setting="size.train_references",
        )
    by_reference: dict[str, list[dict[str, Any]]] = {}
    for record in listed:
        by_reference.setdefault(record["reference"], []).append(record)
    references = sorted(by_reference)
    Random(seed).shuffle(references)  # noqa: S311  (draws of an experiment, no secret)
    chosen = [record for reference in references for record in by_reference[reference]][:count]
    return [
        {
            "reference": _path(record["reference"]),
            "target": _path(record["target_hard"]),
            "image_set": record["img_set"]["id"],
            **{name: record[name] for name in KEPT},
        }
        for record in chosen
    ]


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write a manifest."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def study_data(root: Path, size: Size, hand: Path, unlabelled: Path, synthetic: Path) -> dict[str, Any]:
    """Return the config of the data of the fits: a mixture of the benchmark, to be evaluated on, and two manifests.

    Args:
        root: of the benchmark.
        size: of it.
        hand: manifest with images of the benchmark.
        unlabelled: root of the scenes that the other manifest is made from.
        synthetic: that manifest.
    """

    def manifest(name: str, scenes: Path, file: Path) -> dict[str, Any]:
        arguments = {"root": str((scenes / TRAIN).resolve()), "file": str(file.resolve()), "name": name}
        return {"class_path": "data_modules.Manifest", "init_args": arguments}

    benchmark = {"root": str(root.resolve()), "size": asdict(size)}
    sets = [
        {"class_path": "data_modules.Scenes", "init_args": benchmark},
        manifest("hand_made", root, hand),
        manifest("synthetic", unlabelled, synthetic),
    ]
    return {
        "data": {
            "class_path": "data_modules.Mixture",
            "init_args": {"sets": sets, "evaluate": "scenes", "features": "auto"},
        }
    }


def _path(name: str) -> str:
    return str(Path(image_path(name)).relative_to(TRAIN))


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors("finished work is kept, the same command continues"):
        typed = split_flags(sys.argv[1:] if args is None else args)
        auto_cli(synth_demo, as_positional=False, parser_class=Parser, args=typed)


if __name__ == "__main__":
    main()
