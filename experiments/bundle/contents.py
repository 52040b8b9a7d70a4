"""What goes into a bundle: a run's results with the ranks behind them, and nothing that names people or machines."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import contextcir
from callbacks.retrieved import QUERIES_FILE
from contextcir.errors import InputError, MissingFileError
from contextcir.files import ordinary_file, read_json, read_text
from experiments.bundle.archive import HEAD
from experiments.bundle.cleaning import Cleaner
from experiments.environment import ENVIRONMENT_FILE
from experiments.report.results import METRICS as METRICS_FILE
from experiments.study.results import RUN_FOLDER

FORMAT = 1
PHASES = ("test", "validate", "fit_end")  # of metrics.json, the later ones first
SUBMISSION = "submission"
MOST_SUBMISSION = 20_000_000  # bytes


def content_of(run: Path, licence: str | None = None) -> dict[str, bytes]:
    """Return the files of a run's bundle by name, ``bundle.json`` among them.

    Args:
        run: folder of a run, or of the trial of a study.
        licence: of the model's weights, where the results do not say.

    Raises:
        MissingFileError: if the folder has no results.
        InputError: if they are damaged.
    """
    folder = run / RUN_FOLDER if (run / RUN_FOLDER / METRICS_FILE).exists() else run
    metrics, queries = read_json(folder / METRICS_FILE), read_json(folder / QUERIES_FILE)
    if metrics is None:
        raise MissingFileError(f"has no {METRICS_FILE}: evaluate the run first", file=folder)
    try:
        return _files(folder, metrics, queries or {}, licence)
    except (LookupError, TypeError, AttributeError) as error:
        problem = f"holds something else than results ({type(error).__name__}: {error})"
        raise InputError(problem, file=folder / METRICS_FILE) from None


def digest(value: Any) -> str:
    """Return the SHA-256 of a value of JSON, however it is laid out."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parts_of(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of ``bundle.json`` that have a digest each, by name: a change is told with its place."""
    parts = {name: value for name, value in head.items() if name not in ("digests", "results")}
    for phase, splits in head["results"].items():
        for split, entry in splits.items():
            parts[f"{phase}.{split}.protocol"] = entry.get("protocol")
            for row, figures in entry.get("rows", {}).items():
                parts[f"{phase}.{split}.{row}"] = figures
            parts[f"{phase}.{split}"] = {key: value for key, value in entry.items() if key not in ("protocol", "rows")}
    return parts


def _files(
    folder: Path, metrics: Mapping[str, Any], queries: Mapping[str, Any], licence: str | None
) -> dict[str, bytes]:
    cleaner = Cleaner()
    left_out = ["captions, and names and paths of images other than those in submission files"]
    results, unused = _results(metrics, queries)
    left_out += [f"figures without ranks: {name}" for name in unused]
    files: dict[str, bytes] = {}
    for splits in results.values():
        for split in splits:
            if split in queries:
                files[f"ranks/{split}.json"] = _json(_numbered(queries[split]))
    seeds, settings = _settings(folder, cleaner)
    files |= settings
    for file in sorted((folder / SUBMISSION).glob("*.json")):
        files[f"{SUBMISSION}/{file.name}"] = ordinary_file(file, most=MOST_SUBMISSION).read_bytes()
    environment = read_json(folder / ENVIRONMENT_FILE) or _of_trial(folder)
    if environment is None:
        left_out.append(f"environment: the run has no {ENVIRONMENT_FILE}")
    head: dict[str, Any] = {
        "format": FORMAT,
        "name": cleaner.clean(_name(folder), "name"),
        "kind": "reproduced",
        "software": {"contextcir": contextcir.__version__},
        "licence": licence,
        "seeds": seeds,
        "model": _model(folder),
        "results": cleaner.clean(_of_files(results)),
        "environment": cleaner.clean(environment, "environment"),
    }
    head["left_out"] = left_out + cleaner.notes()
    head["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    head["digests"] = {name: digest(value) for name, value in sorted(parts_of(head).items())}
    return {HEAD: _json(head, indent=1), **files}


def _results(metrics: Mapping[str, Any], queries: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return of every split the result that its ranks are of, else the latest one; and the names of all others."""
    chosen: dict[str, str] = {}
    for phase in PHASES:
        for split, entry in metrics.get(phase, {}).items():
            if "rows" in entry and split not in chosen and "mean_of" not in entry:
                chosen[split] = queries.get(split, {}).get("made", {}).get("phase", phase)
    for phase in PHASES:  # means go with their parts
        for split, entry in metrics.get(phase, {}).items():
            if (
                "mean_of" in entry
                and split not in chosen
                and all(chosen.get(part) == phase for part in entry["mean_of"])
            ):
                chosen[split] = phase
    results = {
        phase: splits
        for phase in PHASES
        if (splits := {s: e for s, e in metrics.get(phase, {}).items() if chosen.get(s) == phase})
    }
    every = [(phase, split) for phase, splits in metrics.items() for split in splits]
    return results, [f"{phase} {split}" for phase, split in every if split not in results.get(phase, {})]


def _of_files(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results with the names of checkpoints in the place of their paths."""

    def of(entry: Mapping[str, Any]) -> dict[str, Any]:
        checkpoint = entry.get("checkpoint")
        named = {"checkpoint": {**checkpoint, "file": Path(checkpoint["file"]).name}} if checkpoint else {}
        return {**entry, **named}

    return {phase: {split: of(entry) for split, entry in splits.items()} for phase, splits in results.items()}


def _numbered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return ranks with numbers in the place of the references' names: queries of one reference have the same.

    ``data`` is a digest of queries, references and groups: other data under the same protocol are told from these.
    """
    numbers: dict[str, int] = {}
    named = [None if name is None else numbers.setdefault(name, len(numbers)) for name in entry["references"]]
    data = digest([entry["queries"], entry["references"], entry["strata"]])[:12]
    return {**entry, "references": named, "data": data}


def _settings(folder: Path, cleaner: Cleaner) -> tuple[list[int], dict[str, bytes]]:
    """Return the seeds, and the files of settings: without comments, which name folders."""
    seeds: list[int] = []
    files = {}
    for file in sorted(folder.glob("config*.yaml")):
        try:
            settings = yaml.safe_load(read_text(file, most=5_000_000))
        except (yaml.YAMLError, RecursionError):
            raise InputError("is no YAML", file=file) from None
        seed = settings.get("seed_everything") if isinstance(settings, dict) else None
        if type(seed) is int and seed not in seeds:
            seeds.append(seed)
        cleaned = cleaner.clean(settings, file.name.removesuffix(".yaml"))
        files[file.name] = yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True).encode()
    return seeds, files


def _model(folder: Path) -> dict[str, str | None]:
    """Return the classes that compose a query and teach concepts, as far as the settings name them."""
    files = sorted(folder.glob("config*.yaml"))
    settings = yaml.safe_load(read_text(files[0])) if files else None
    model = settings.get("model") if isinstance(settings, dict) else None
    found: dict[str, str | None] = {}
    for part in ("fusion", "concept"):
        given = model.get(part) if isinstance(model, dict) else None
        path = given.get("class_path") if isinstance(given, dict) else None
        found[part] = path.rpartition(".")[2] if isinstance(path, str) else None
    return found


def _name(folder: Path) -> str:
    """Return the experiment and the id of a run, or variant and seed of the trial of a study."""
    if folder.name != RUN_FOLDER:
        return f"{folder.absolute().parent.name}/{folder.absolute().name}"
    return f"{folder.absolute().parent.parent.name}/{folder.absolute().parent.name}"


def _of_trial(folder: Path) -> dict[str, Any] | None:
    """Return what a study notes of the environment of a trial."""
    result = read_json(folder.absolute().parent / "result.json")
    if not isinstance(result, dict):
        return None
    return {"trial": {name: result.get(name) for name in ("machine", "versions", "commit", "code")}}


def _json(value: Any, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    return (json.dumps(value, indent=indent, separators=separators, ensure_ascii=False) + "\n").encode()
