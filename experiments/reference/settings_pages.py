"""The pages of the settings of `experiments.run`, made of the classes, the configs, and a few words of this file."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import yaml
from lightning.pytorch import Callback, Trainer

import callbacks
from contextcir.training.module import ContextCIR
from data_modules import CompositionDataModule
from data_modules.reading.reader import BenchmarkReader
from experiments.help import MACHINE, OPTIMIZER, told
from experiments.reference.settings import Setting, choices, sentence, settings_of, summary
from experiments.reference.texts import ROOT

CONFIGS = ROOT / "experiments" / "configs"
MADE = "<!-- Made by `python -m experiments.reference`: change the docstrings or configs, and run it again. -->\n\n"
QUOTES = "\"'"

RUN = {
    "config": "a YAML file, or the name of one of the [configs](settings/configs.md); several are read in their order",
    "name": "name of the experiment: its files are in `runs/NAME/ID`, its runs at W&B in the group `NAME`",
    "seed_everything": "seed of weights, batches, dropout and draws",
    "ckpt_path": "checkpoint to begin with: a file, or `last` for the newest one of this run",
    "weights_only": "no effect: checkpoints are always read as weights and plain data, never as code",
    "print_config": "print all settings that the files and flags come to, and end",
}
TRAINER = {
    **{key.partition(".")[2]: text for key, text in (OPTIMIZER | MACHINE).items() if key.startswith("trainer.")},
    "accelerator": "kind of device: `cpu`, `gpu`, `mps`, or `auto`",
    "callbacks": "what happens beside training: see [callbacks](settings/callbacks.md); `callbacks+` adds one",
    "check_val_every_n_epoch": "with null, `val_check_interval` counts batches over all epochs, not within one",
    "default_root_dir": "folder of the run",
    "enable_checkpointing": "`false` leaves out all callbacks that write checkpoints",
    "enable_model_summary": "print the parts of the model and their parameters",
    "enable_progress_bar": "print progress: a bar in a terminal, lines in a file",
    "limit_val_batches": "batches of queries of an evaluation: a number, or a share of them",
    "log_every_n_steps": "optimizer steps between two logged values",
    "logger": "where figures go: a folder of CSV files, and W&B, which stays offline unless `WANDB_MODE=online`",
    "max_epochs": "epochs of training, where `max_steps` is -1",
    "max_steps": "optimizer steps of training; -1 for no such limit",
    "max_time": "time after which training ends, as `DD:HH:MM:SS`",
    "num_nodes": "number of machines",
    "num_sanity_val_steps": "batches evaluated before training; -1 for a full evaluation",
    "plugins": "`AtomicCheckpoints` writes a checkpoint under another name, and renames it when it is whole",
    "precision": "`32-true`, `bf16-mixed` or `16-mixed`; `${fast_precision:}` chooses by the device",
    "strategy": "how several devices train together; `auto` is DDP",
}
VARIABLES = {
    "CIR_DATA": "folder of the benchmarks in all configs; `datasets` by default",
    "CIR_RUNS": "folder of the runs; `runs` by default",
    "CIR_PHRASES": "phrase bank of `overlays/phrase_bank`; `datasets/phrases.bank` by default",
    "CIR_FEATURES": "folder of stored features of frozen image towers; `features` in `CIR_RUNS` by default",
    "CIR_GALLERY": "folder of gallery embeddings of `overlays/gallery_store`; `gallery` in `CIR_RUNS` by default",
    "CIR_EMBEDDINGS": "folder of what `experiments.evaluate` keeps; `embeddings` in `CIR_RUNS` by default",
    "CIR_COMPILE": "backend of torch.compile in `overlays/compile`; `inductor` by default",
    "CIR_TRACEBACK": "1 shows tracebacks in place of one line",
    "CIR_LEAN_START": "0 leaves nothing out when Lightning is imported, for callbacks that need it",
    "WANDB_MODE": "`online` sends figures to W&B while a run goes on; offline by default",
    "WANDB_PROJECT": "project at W&B; `contextcir` by default",
    "WANDB_RUN_ID": "id of a run: the same command with the same id goes on where it was stopped",
    "STANZA_RESOURCES_DIR": "folder of Stanza's models",
    "HF_HUB_OFFLINE": "1 downloads nothing, and says what is missing",
}
INTRODUCTION = """Every setting of `python -m experiments.run` is a key of a YAML file and a flag of the command line:
`name: test` in a file is `--name=test` as a flag. Files are read in their order, then flags; what comes later wins.
A setting that takes a class is given by the bare name of the class, `--model.fusion=Combiner`. A class that takes the
place of another keeps what was set before, where both have such a setting; what was a default becomes its own default.
`--print_config` shows the outcome.

- `python -m experiments.run fit --help` shows the settings that matter most, with their values.
- `python -m experiments.run fit --config NAME --print_config` prints everything that a config comes to.

The pages after this one list [the model](settings/model.md), [the data](settings/data.md),
[callbacks](settings/callbacks.md), and [the configs and overlays](settings/configs.md) that come with the project.
The word "needed" in the place of a default means that there is none.
"""
OF_TRAINER = """Lightning's trainer has more settings; these are the ones that the project's configs use, or that most
runs need. `base` is the config that all experiments share.
"""
OF_MODEL = """Each setting below takes a class by its name, and the settings of that class. For example
`--model.fusion=Combiner --model.fusion.width=1280`.
"""
OF_CALLBACKS = """A config lists callbacks below `trainer.callbacks`, each by its name and its settings; `callbacks+`
adds to the list of the files before. On the command line, a callback and its setting:
`--trainer.callbacks+=StoreGallery --trainer.callbacks.folder=DIR`.
"""
OF_CONFIGS = """`--config NAME` takes a file, or one of these by its name. Several are read in their order, and what
comes later wins. A config may name a `base`, which is read before it.
"""
EMBEDDERS = "For `python -m experiments.evaluate`: see [other models](../embedders.md)."
FOLDERS = (
    ("Experiments", "configs", "For `python -m experiments.run fit --config NAME`."),
    ("Overlays", "configs/overlays", "They change a part of an experiment, and are named after it:\n"
        "`python -m experiments.run fit --config cirr_b32 --config overlays/bf16`."),
    ("Other embedders", "configs/embedders", EMBEDDERS),
    ("Triplets from photos", "configs/synthesis", "For `python -m experiments.synthesize`: see"
        " [synthesis](../synthesis.md)."),
    ("Studies", "studies", "For `python -m experiments.study NAME`."),
    ("Sweeps", "sweeps", "For `make sweep FILE=experiments/sweeps/NAME.yaml`: see [sweeps](../sweeps.md)."),
)  # fmt: skip


def pages() -> dict[str, str]:
    """Return the pages, by their files below the folder of documents."""
    return {
        "settings.md": run_page(),
        "settings/model.md": model_page(),
        "settings/data.md": data_page(),
        "settings/callbacks.md": callbacks_page(),
        "settings/configs.md": configs_page(),
    }


def run_page() -> str:
    """Return the page of what stands above classes: the run, the trainer, variables of the environment."""
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text(encoding="utf-8"))["trainer"]
    default = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    names = sorted({*TRAINER, *_trainer_settings_of_configs()})
    trainer = [
        _item(f"`trainer.{name}`: {_code(told(default[name]))} by default{_of_base(base, name)}", TRAINER[name])
        for name in names
    ]
    parts = [
        f"# Settings\n\n{MADE}{INTRODUCTION}",
        f"\n## The run\n\n{_entries(RUN)}",
        f"\n## The trainer\n\n{OF_TRAINER}\n",
        *trainer,
        f"\n## Variables of the environment\n\n{_entries(VARIABLES)}",
    ]
    return "".join(parts)


def model_page() -> str:
    """Return the page of the settings below ``model``."""
    whole = settings_of(ContextCIR)
    groups = {base: (key, given) for key, base, given in reversed(list(_groups("model", ContextCIR)))}
    anchors = {base.__name__: f"#{_anchor(key)}" for base, (key, _) in groups.items()}
    parts = [
        f"# Settings of the model\n\n{MADE}{OF_MODEL}\n",
        _listed("model", whole, anchors),
    ]
    parts += [_group(key, base, given, anchors) for base, (key, given) in reversed(groups.items())]
    return "".join(parts)


def data_page() -> str:
    """Return the page of the settings below ``data``."""
    shared = [setting for setting in settings_of(CompositionDataModule) if setting.name != "reader"]
    benchmarks = [kind for kind in choices(CompositionDataModule) if kind is not CompositionDataModule]
    every = {kind.__name__: settings_of(kind) for kind in benchmarks}
    groups: dict[type, str] = {}  # headings, by the class that a setting takes
    for kind in (CompositionDataModule, *benchmarks):
        for key, base, _ in _groups("data", kind):
            groups.setdefault(base, key if kind is CompositionDataModule else f"{key} of {kind.__name__}")
    anchors = {base.__name__: f"#{_anchor(heading)}" for base, heading in groups.items()}
    parts = [
        f"# Settings of the data\n\n{MADE}`--data=NAME` chooses a benchmark. [Benchmarks](../benchmarks.md) has their"
        " layouts and what is reported.\n\n## Every benchmark\n\n",
        _listed("data", shared, anchors),
    ]
    for kind in benchmarks:
        own = [setting for setting in every[kind.__name__] if setting not in shared]
        parts += [f"\n## {kind.__name__}\n\n{summary(kind)}\n\n", _listed("data", own, anchors)]
    parts += [_group(heading, base, 0, anchors) for base, heading in groups.items()]
    return "".join(parts)


def callbacks_page() -> str:
    """Return the page of the callbacks."""
    kinds = {kind.__name__: kind for kind in choices(Callback) if kind is not Callback}
    kinds |= {name: getattr(callbacks, name) for name in callbacks.__all__}
    parts = [f"# Callbacks\n\n{MADE}{OF_CALLBACKS}"]
    for name in sorted(kinds):
        settings = settings_of(kinds[name])
        parts.append(f"\n## {name}\n\n{summary(kinds[name])}\n")
        parts += ["\n", _listed("", settings, {})] if settings else []
    return "".join(parts)


def configs_page() -> str:
    """Return the page of the project's own YAML files."""
    parts = [f"# Configs and overlays\n\n{MADE}{OF_CONFIGS}"]
    for title, folder, words in FOLDERS:
        files = sorted((ROOT / "experiments" / folder).glob("*.yaml"))
        below = folder.partition("/")[2]
        names = {f"{below}/{file.stem}".strip("/"): first_words(file.read_text(encoding="utf-8")) for file in files}
        parts.append(f"\n## {title}\n\n{words}\n\n{_entries(names)}")
    return "".join(parts)


def first_words(text: str) -> str:
    """Return the title of a study, else the first sentence of the comment that a YAML file begins with."""
    if title := re.search(r"^title: (.*)", text, re.MULTILINE):
        return f"{title[1].strip(QUOTES)}."
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("#").strip())
    return sentence(re.sub(r"[:;] (?:put this file )?after an experiment's\.", ".", " ".join(lines)))


def _groups(prefix: str, kind: type, done: tuple[type, ...] = ()) -> Iterator[tuple[str, type, int]]:
    """Yield the settings that take a class, with that class: those of a class, and of the classes that they take.

    The third is how many parameters the program gives: a fusion gets the widths of the backbone. Classes in ``done``
    are left out: a mixture holds data modules, and a reader is an argument of Python only.
    """
    for setting in settings_of(kind):
        for base in setting.classes:
            if base in (BenchmarkReader, CompositionDataModule, *done):
                continue
            given = 1 if setting.name == "fusion" else 0
            yield f"{prefix}.{setting.name}", base, given
            for choice in choices(base):
                if any(inner.classes for inner in settings_of(choice, given)):
                    yield from _groups(f"{prefix}.{setting.name}", choice, (*done, base))


def _group(heading: str, base: type, given: int, anchors: Mapping[str, str]) -> str:
    """Return the section of a setting that takes a class; the heading begins with its key."""
    key, parts = heading.partition(" ")[0], [f"\n## {heading}\n"]
    kinds = choices(base)
    for kind in kinds:
        parents = [other for other in kinds if other is not kind and issubclass(kind, other)]
        settings, told_above = settings_of(kind, given), ""
        if parents:
            nearest = min(parents, key=kind.mro().index)
            known = settings_of(nearest, given)
            if all(setting.name in {own.name for own in settings} for setting in known) and known:
                settings = [setting for setting in settings if setting.name not in _same(setting, known)]
                told_above = f"\nIt has the settings of `{nearest.__name__}`"
                told_above += ", and these:\n" if settings else ".\n"
        parts.append(f"\n### {kind.__name__}\n\n{summary(kind)}\n{told_above}")
        parts += ["\n", _listed(key, settings, anchors)] if settings else []
    return "".join(parts)


def _same(setting: Setting, known: Sequence[Setting]) -> set[str]:
    """Return the names of known settings of the same type and default; their meaning may be told in other words."""
    return {other.name for other in known if other[:3] == setting[:3]}


def _listed(key: str, settings: Sequence[Setting], anchors: Mapping[str, str]) -> str:
    """Return a list of settings; a table of four columns can't be read on a phone."""
    lines = []
    for setting in settings:
        kind = setting.kind
        for base in setting.classes:
            anchor = anchors.get(base.__name__)
            kind = kind.replace(f"`{base.__name__}`", f"[class]({anchor})" if anchor else "class")
        name = f"{key}.{setting.name}" if key else setting.name
        default = "needed" if setting.default is None else f"{_code(setting.default)} by default"
        lines.append(_item(f"`{name}`: {kind}, {default}", setting.meaning))
    return "".join(lines)


def _entries(meanings: Mapping[str, str]) -> str:
    return "".join(_wrapped(f"- `{name}`: {sentence(text)}") for name, text in meanings.items())


def _item(facts: str, meaning: str) -> str:
    return _wrapped(f"- {facts}. {sentence(meaning)}")


def _wrapped(text: str) -> str:
    """Return an item of a list on lines of at most 120 characters."""
    wrapped = textwrap.wrap(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped) + "\n"


def _trainer_settings_of_configs() -> set[str]:
    names: set[str] = set()
    for file in CONFIGS.rglob("*.yaml"):
        names |= set((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("trainer") or {})
    return {name.removesuffix("+") for name in names}


def _of_base(base: Mapping[str, object], name: str) -> str:
    value = base.get(name)
    if isinstance(value, list):
        few = ", ".join(f"`{entry['class_path']}`" for entry in value) if len(value) < 3 else f"{len(value)} of them"
        return f", in `base` {few}"
    return "" if name not in base else f", in `base` {_code(told(value))}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _anchor(heading: str) -> str:
    return heading.replace(".", "").replace(" ", "-").lower()
