"""The files of a model repository, from the folder of a run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextcir.errors import InputError
from contextcir.files import write_json, write_text
from contextcir.training.hub_files import SETTINGS, WEIGHTS, save
from contextcir.training.models import best_checkpoint
from contextcir.training.module import ContextCIR
from contextcir.weights import WeightsFile, checked, read_weights, state_digest
from experiments.bundle.contents import content_of
from experiments.bundle.rows import row_of
from experiments.bundle.verify import check_bundle, refuse_different
from experiments.hub.card import card_of

CARD, RESULTS = "README.md", "results.json"
FILES = (WEIGHTS, SETTINGS, CARD, RESULTS)
OWN_MODELS = {"scenes-vit": "apache-2.0", "scenes-vit-short": "apache-2.0"}  # that come with the package, as it does


def write_files(run: Path, repository: str, folder: Path, licence: str | None = None) -> list[Path]:
    """Write the files of a repository into a folder, and return them.

    The figures of the card are those of the run that are of the weights of its best checkpoint.

    Args:
        run: folder of the run.
        repository: ``OWNER/NAME``.
        folder: is made if it is new.
        licence: of the weights; known for the CLIPs that come with the package.

    Raises:
        MissingFileError: if the run has no checkpoint or no results.
        InputError: if none of its results is of these weights, a figure differs from what the ranks give, the licence
            is not known, or others could not build the model.
    """
    checkpoint = best_checkpoint(run)
    found = read_weights(checkpoint, "run")
    settings, state = _parts(found)
    bundle = check_bundle(content_of(run, licence), run)
    refuse_different(bundle, run)
    digests = {_sha256(checkpoint), state_digest(state)}
    results = {
        phase: own
        for phase, splits in bundle.head["results"].items()
        if (own := {split: entry for split, entry in splits.items() if _digest(entry) in digests and "rows" in entry})
    }
    if not results:
        problem = f"no result of the run is of {checkpoint.name}: evaluate that first, as its --ckpt_path"
        raise InputError(problem, file=run)
    head = {**bundle.head, "results": results}
    licence = _licence(head, licence)
    save(settings, state, folder)
    named = [(phase, split) for phase, splits in results.items() for split in splits]
    write_text(folder / CARD, card_of(repository, licence, state_digest(state), head, named))
    write_json(folder / RESULTS, row_of(bundle._replace(head={**head, "licence": licence}), repository), indent=1)
    return [folder / name for name in FILES]


def _parts(found: WeightsFile) -> tuple[Mapping[str, Any], dict[str, Any]]:
    content = found.content
    settings = content.get(ContextCIR.CHECKPOINT_HYPER_PARAMS_KEY) if isinstance(content, Mapping) else None
    if not isinstance(settings, Mapping) or "backbone" not in settings:
        raise InputError("is no checkpoint of experiments.run: it has no settings", file=found.path)
    return settings, checked(content["state_dict"], found)


def _licence(head: Mapping[str, Any], given: str | None) -> str:
    first = next(entry for splits in head["results"].values() for entry in splits.values())
    known = given or head.get("licence") or OWN_MODELS.get(str(first.get("model")))
    if not known:
        raise InputError(f"the licence of {first.get('model')} is not known: name it, such as mit", setting="licence")
    return str(known)


def _digest(entry: Mapping[str, Any]) -> str | None:
    checkpoint = entry.get("checkpoint")
    return checkpoint["sha256"] if isinstance(checkpoint, Mapping) else entry.get("weights")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
