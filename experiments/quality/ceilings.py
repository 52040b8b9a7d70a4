"""Measure how far retrieval on scenes can go: by embeddings of one model that know the target, and by ideal choosers.

python -m experiments.quality.ceilings --root datasets/scenes --split val --json ceilings.json

A twin of the target is the same scene in another rendering: a composed query that describes the target as well as a
picture of it would get its figures. Texts are ranked by the model as they are, without training. A chooser sees no
pixels: it knows what all images of a query's set show, and picks one of those that the text does not rule out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contextcir.checks import whole
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.errors import InputError
from contextcir.evaluation.composition import CompositionMetric
from contextcir.files import write_json
from contextcir.synthesis.clip import load_clip
from data_modules.loading.images import find_images
from data_modules.records import Evaluation
from data_modules.scenes import ScenesReader
from data_modules.scenes.describer import SceneGraphs
from data_modules.scenes.graph import Scene
from data_modules.scenes.wording import describe
from experiments.command import command, processor, table
from experiments.outputs import output_file
from experiments.quality.choosers import choosers
from experiments.quality.pictures import BATCH, Pictures, embed_images

STREAM = 14  # keeps twins and wordings apart from all that the benchmark draws
TWINS = 3
METRICS = {"R@1": "recall_at_1", "Rsub@1": "subset_recall_at_1"}
Figures = dict[str, float]


def read_split(root: Path, split: str) -> tuple[Evaluation, dict[str, Scene]]:
    """Return the queries of a split with image sets, and what each image of its gallery shows, by name.

    Raises:
        InputError: if there is no such split, or its queries have no sets of their own.
    """
    try:
        evaluation = ScenesReader(root).read_evaluation(split)
        if evaluation.protocol.subsets is None:
            raise InputError(f"the queries of {split} have no image sets", setting="split")
        graphs = SceneGraphs(root)
        return evaluation, {name: graphs.find(path) for name, path in evaluation.image_paths.items()}
    except InputError as error:
        raise error.relocate("model.root", "root").relocate("data.root", "root") from None


def embed_gallery(backbone: OpenCLIPBackbone, root: Path, paths: Mapping[str, str]) -> Tensor:
    """Embed the images of a gallery: (G, E), L2-normalised."""
    store = find_images(ScenesReader(root).image_folders(), paths)

    def read(start: int, end: int) -> Tensor:
        return torch.stack([backbone.preprocess(store.load(name)) for name in store.names[start:end]])

    return embed_images(backbone, len(store), read)


@torch.no_grad()
def embed_texts(backbone: OpenCLIPBackbone, texts: Sequence[str]) -> Tensor:
    """Embed texts: (B, E), L2-normalised. What is longer than the model's context is cut."""
    parts = [
        backbone.encode_text(backbone.tokenizer(texts[start : start + BATCH])).embedding
        for start in range(0, len(texts), BATCH)
    ]
    return functional.normalize(torch.cat(parts), dim=-1)


def informed_queries(
    backbone: OpenCLIPBackbone, evaluation: Evaluation, scenes: Mapping[str, Scene], seed: int
) -> dict[str, Tensor]:
    """Return by row an embedding (N, E) of every query, made from what its target shows."""
    references = [scenes[record.reference] for record in evaluation.records]
    targets = [scenes[str(record.target)] for record in evaluation.records]
    pictures, rng = Pictures(backbone, [seed, STREAM, 0]), np.random.default_rng([seed, STREAM, 1])
    twins = torch.stack([pictures.embed(targets) for _ in range(TWINS)])  # (TWINS, N, E)
    told = [describe(rng, reference, omit=0.0) for reference in references]
    stories = [f"{told[n]}. {record.caption}" for n, record in enumerate(evaluation.records)]
    return {
        "a twin of the target": twins[0],
        f"mean of {TWINS} twins": functional.normalize(twins.mean(dim=0), dim=-1),
        "description of the target": embed_texts(backbone, [describe(rng, target, omit=0.0) for target in targets]),
        "description of the reference, then the caption": embed_texts(backbone, stories),
    }


def ranked(evaluation: Evaluation, gallery: Tensor, queries: Mapping[str, Tensor]) -> dict[str, Figures]:
    """Return by row the figures in percent of embeddings (N, E) against a gallery (G, E), strata among them."""
    metric = CompositionMetric(evaluation.protocol)
    metric.update_gallery(torch.arange(len(gallery)), gallery)
    for row, embeddings in queries.items():
        metric.add_row(row)
        metric.update_queries(torch.arange(len(embeddings)), embeddings, row)
    computed = metric.compute()
    return {row: {name: value.item() for name, value in computed[row].items()} for row in queries}


def concepts_of(figures: Mapping[str, Figures]) -> list[str]:
    """Return the suffixes of all strata by number of concepts."""
    names = {name for row in figures.values() for name in row}
    return sorted({f"_concepts_{name.rpartition('_concepts_')[2]}" for name in names if "_concepts_" in name})


def markdown(figures: Mapping[str, Figures]) -> str:
    """Return the table of all rows: each figure over all queries, then by number of concepts."""
    strata = ["", *concepts_of(figures)]
    header = [f"{word}{stratum.replace('_concepts_', ', c')}" for word in METRICS for stratum in strata]
    rows = [
        [name, *(_words(row.get(metric + stratum)) for metric in METRICS.values() for stratum in strata)]
        for name, row in figures.items()
    ]
    return table(["percent; c1: queries of one concept", *header], rows)


def _words(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def ceilings(
    root: Path = Path("datasets/scenes"),
    split: str = "val",
    model: str = "scenes-vit",
    pretrained: str | None = None,
    seed: int = 0,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure the ceilings of a split of scenes.

    Args:
        root: Folder of the scenes benchmark.
        split: val, test or test_unseen.
        model: Name of an open_clip model.
        pretrained: Tag or file of its weights.
        seed: Draws twins and wordings.
        threads: CPU threads.
        json: File for all figures.
    """
    whole(seed, 0, "seed", 2**32 - 1)
    whole(threads, 1, "threads")
    output_file(json, "json")
    torch.set_num_threads(threads)
    evaluation, scenes = read_split(root, split)
    backbone, _ = load_clip(model, pretrained, "cpu", "model")
    gallery = embed_gallery(backbone, root, evaluation.image_paths)
    figures = ranked(evaluation, gallery, informed_queries(backbone, evaluation, scenes, seed))
    figures |= choosers(evaluation, scenes)
    count = len(evaluation.records)
    print(f"{model} on {root.name} {split}: {count} queries, {len(gallery)} images, seed {seed}\n")
    print(markdown(figures))
    if json is not None:
        report = {"model": model, "split": split, "queries": count, "gallery": len(gallery), "seed": seed}
        write_json(json, {**report, "machine": processor(), "torch": torch.__version__, "rows": figures}, indent=2)


def main() -> None:
    """Parse the command line."""
    command(ceilings)


if __name__ == "__main__":
    main()
