"""The model card: data, protocol, figures with those of the query's sides, digest, licence and citation."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from contextcir.errors import shown
from experiments.bundle.rows import over_all
from experiments.command import table
from experiments.leaderboard.entries import Entry
from experiments.leaderboard.tables import short, title_of, words_of

ROWS = ("composed", "image_only", "text_only", "sum")
CITATION = """\
@inproceedings{xing2025contextcir,
  title     = {{ConText-CIR}: Learning from Concepts in Text for Composed Image Retrieval},
  author    = {Xing, Eric and Kolouju, Pranavi and Pless, Robert and Stylianou, Abby and Jacobs, Nathan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {19638--19648},
  year      = {2025}
}"""
CODE = "https://github.com/mvrl/ConText-CIR"


def card_of(
    repository: str, licence: str, digest: str, head: Mapping[str, Any], results: Sequence[tuple[str, str]]
) -> str:
    """Return the text of ``README.md``.

    Args:
        repository: ``OWNER/NAME``.
        licence: of the weights.
        digest: of the weights.
        head: ``bundle.json`` of the run.
        results: phase and split of the results that are of these weights.
    """
    entries = [(phase, split, head["results"][phase][split]) for phase, split in results]
    first = entries[0][2]
    front = yaml.safe_dump(
        {
            "license": licence.lower(),
            "library_name": "contextcir",
            "tags": ["composed-image-retrieval", "contextcir"],
        },
        sort_keys=False,
    )
    model = head.get("model") or {}
    parts = [f"{first['model']}"] + [str(model[part]) for part in ("fusion", "concept") if model.get(part)]
    environment = next(iter((head.get("environment") or {}).values()), None) or {}
    seeds = ", ".join(map(str, head["seeds"])) or "unknown"
    lines = [
        f"---\n{front}---",
        f"# {repository.partition('/')[2]}",
        f"A model for composed image retrieval: {', '.join(parts)}. An image and a text that says what is to be "
        "different become one query.",
        "## Use",
        f"```python\nimport contextcir\n\nmodel = contextcir.load({f'hf-hub:{repository}'!r})\n```",
        "`model.embed_query(images, texts)` and `model.embed_image(images)` return normalised embeddings of "
        "preprocessed images (`model.preprocess`); the highest cosines are what was asked for. The files are "
        "safetensors and JSON; no code is run when they are loaded.",
        "## What it has measured",
        "Percent, by this run's own evaluation of exactly these weights. The rows of the image alone, the text alone "
        "and their sum rank the same gallery.",
        *(_section(split, entry) for _, split, entry in entries),
        "## What made it",
        table(
            ["", ""],
            [
                ["weights, SHA-256 over names and tensors", f"`{digest}`"],
                ["licence", licence],
                ["parameters", _number(first.get("parameters"))],
                ["dimension of embeddings", _number(first.get("dimension"))],
                ["seed", seeds],
                ["training steps", _number(first.get("step"))],
                ["machine", str(environment.get("machine", "unknown"))],
                [
                    "versions",
                    ", ".join(f"{k} {v}" for k, v in (environment.get("versions") or {}).items()) or "unknown",
                ],
            ],
            left=2,
        ).rstrip(),
        "`results.json` beside this card has the same figures with intervals, for `python -m experiments.leaderboard`.",
        "## Citation",
        f"The method is that of ConText-CIR ({CODE}):\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def _section(split: str, entry: Mapping[str, Any]) -> str:
    protocol = entry["protocol"]
    known = Entry("", "reproduced", protocol, {}, seen=entry.get("seen"), missing_images=entry.get("missing_images", 0),
                  mean_of=tuple(entry.get("mean_of", ())))  # fmt: skip
    names = [name for name in entry["rows"]["composed"] if over_all(name, protocol)]
    rows = [
        [row.replace("_", " "), *(_figure(entry["rows"][row].get(name)) for name in names)]
        for row in ROWS
        if row in entry["rows"]
    ]
    gap = entry.get("composition", {}).get("gap")
    more = f"\nComposition Gap: {gap:.3f}\n" if isinstance(gap, float) else ""
    return f"### {title_of(known)}\n\n{words_of(known)}\n\n{table(['query', *map(short, names)], rows)}{more}".rstrip()


def _figure(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float | int) else "–"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown" if value is None else shown(value)
