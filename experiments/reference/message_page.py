"""The page of all messages of errors, by what one was doing."""

from collections.abc import Iterable, Sequence

from experiments.causes import EXTRAS, SYSTEM
from experiments.reference.messages import Message, messages
from experiments.reference.texts import GAP, Sources

INTRODUCTION = f"""# Error messages

<!-- Made by `python -m experiments.reference`: change the messages in the source, and run it again. -->

Every error of this project is one line that begins with "error: ". This page lists all of them; search it, with the
browser or with the search of this site, for the words that stay the same. [Troubleshooting](troubleshooting.md) has
remedies for those that come up most.

{GAP} stands for what depends on the case: a value, a number, a path. Before a message may stand where the mistake is:

    FILE: ...                       a file or folder
    record 7 (pairid 12) of FILE: ...   a record of an annotation file, counted from 0
    ... field target.id ...         a field of that record

After it, in brackets, stands the flag to change. Where it is always the same, it stands here after an arrow.
"""
# What one was doing, and the modules whose messages belong to it; the longest beginning of a path counts.
AREAS: dict[str, Sequence[str]] = {
    "Commands, settings and configs": (
        "experiments/", "contextcir/checks.py", "contextcir/devices.py", "contextcir/network.py", "contextcir/lazy.py",
    ),
    "Files and images": (
        "contextcir/files.py", "contextcir/images.py", "contextcir/copies.py", "contextcir/embeddings.py",
    ),
    "Benchmarks and annotation files": (
        "data_modules/", "experiments/check_data.py", "experiments/convert.py", "experiments/scenes.py",
    ),
    "Shards and Arrow files": (
        "contextcir/shards/", "data_modules/shards/", "data_modules/arrow/", "experiments/shards.py",
    ),
    "Noun phrases": ("contextcir/phrases/", "experiments/phrases/", "data_modules/loading/phrases.py"),
    "Models, weights and checkpoints": (
        "contextcir/encoders/", "contextcir/weights/", "contextcir/assets/", "contextcir/processors.py",
        "contextcir/training/", "experiments/clip/", "experiments/hub/", "callbacks/checkpoint",
    ),
    "Fusion, losses and training": ("contextcir/", "callbacks/"),
    "Evaluation and submission files": (
        "contextcir/evaluation/", "experiments/submission.py", "callbacks/scoring.py", "callbacks/submission.py",
        "callbacks/retrieved.py", "callbacks/quer", "callbacks/results.py", "callbacks/weight.py",
    ),
    "Other embedders": ("contextcir/embedders/", "experiments/evaluate/", "experiments/features.py"),
    "Search": ("contextcir/search/", "experiments/search/"),
    "Triplets from photos": ("contextcir/synthesis/", "experiments/synth"),
    "Reports, results and studies": (
        "experiments/report/", "experiments/bundle/", "experiments/leaderboard/", "experiments/study/",
        "experiments/sweep.py", "experiments/trial.py",
    ),
    "Measurements of this project": ("experiments/benchmarks/", "experiments/quality/", "experiments/mistakes_"),
}  # fmt: skip


def message_page(sources: Sources | None = None) -> str:
    """Return the page."""
    sources = sources or Sources()
    told = messages(sources)
    parts = [INTRODUCTION]
    for area in AREAS:
        parts.append(f"\n## {area}\n")
        of_area = _once(message for message in told if area_of(message.module) == area)
        for module in sorted({message.module for message in of_area}):
            name = module.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
            summary = sources.modules[name].summary.replace("``", "`")
            parts.append(f"\n**`{name}`** {summary}\n\n")
            parts += [_line(message) for message in of_area if message.module == module]
    parts.append(f"\n{system_section()}")
    return "".join(parts)


def _once(told: Iterable[Message]) -> list[Message]:
    """Return messages without those of the same text in a later module."""
    first: dict[str, Message] = {}
    for message in told:
        before = first.get(message.text, Message(message.text, message.module))
        settings = tuple(sorted({*before.settings, *message.settings}))
        first[message.text] = Message(message.text, before.module, settings)
    return list(first.values())


def area_of(module: str) -> str:
    """Return what one was doing when a module raised an error."""
    return max((len(begin), area) for area, begins in AREAS.items() for begin in begins if module.startswith(begin))[1]


def system_section() -> str:
    """Return the section of errors that are told in words of `experiments.causes`."""
    lines = [f"- `{GAP}: {words}`\n" for words in sorted(set(SYSTEM.values()), key=str.lower)]
    extras: dict[str, list[str]] = {}
    for package, extra in EXTRAS.items():
        extras.setdefault(extra, []).append(f"`{package}`")
    missing = [f"- {', '.join(packages)}: `pip install -e '.[{extra}]'`\n" for extra, packages in extras.items()]
    return (
        "## The system, Python and libraries\n\nWhat the system says of a file or disk; the path stands before it:\n\n"
        + "".join(lines)
        + f"\n`this needs the package {GAP}, which is not installed` names the command that installs it:\n\n"
        + "".join(missing)
        + "\nErrors that nobody foresaw begin with `unexpected`, and say where the traceback is.\n"
    )


def _line(message: Message) -> str:
    fence = "``" if "`" in message.text else "`"
    pad = " " if message.text.startswith("`") or message.text.endswith("`") else ""
    flags = f" → {', '.join(f'`--{setting}`' for setting in message.settings)}" if message.settings else ""
    return f"- {fence}{pad}{message.text}{pad}{fence}{flags}\n"
