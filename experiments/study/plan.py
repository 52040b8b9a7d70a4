"""A study as data: what is varied, over which seeds, and the runs that this takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.flags import packaged

WARM_STEPS = 10  # that callbacks.TrainingRecord does not count
OVERLAYS = Path(__file__).parents[1] / "configs" / "overlays"


@dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Args:
        name: its levels, joined by ``-``.
        levels: level of each factor.
        flags: arguments of experiments.run.
        train: whether there is anything to train; if not, it is only evaluated.
    """

    name: str
    levels: Mapping[str, str]
    flags: tuple[str, ...]
    train: bool


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        name: its folder, relative to the study's.
        variant: name of the variant.
        seed: seed of the run.
        flags: arguments of experiments.run.
        subcommands: subcommands of experiments.run, one after the other.
    """

    name: str
    variant: str
    seed: int
    flags: tuple[str, ...]
    subcommands: tuple[str, ...]


@dataclass(frozen=True)
class Tune:
    """Settings are chosen by the mean of ``metric`` over ``seeds``. ``settings``: equally many for each variant."""

    metric: str
    seeds: tuple[int, ...]
    settings: Mapping[str, tuple[Mapping[str, Any], ...]]


@dataclass(frozen=True)
class Pair:
    """Two variants that a question compares: the figures of ``first`` minus those of ``second``."""

    question: str
    first: str
    second: str


@dataclass(frozen=True)
class Plan:
    """A study.

    Args:
        file: its YAML file.
        title: heading of the report.
        variants: what is compared.
        seeds: seeds of every variant.
        references: by variant, the one that it is compared with.
        tune: how settings are chosen; None if they are given.
        metrics: by section and label, the name or pattern of a metric (see `Figures.names`).
        pairs: the questions that the report answers first.
        answers: the figures of the answers by label (see `QueryFigures`).
        curve: the figure of val that is followed during training.
    """

    file: Path
    title: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    references: Mapping[str, str]
    tune: Tune | None
    metrics: Mapping[str, Mapping[str, str]]
    pairs: tuple[Pair, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    curve: str = "val.composed.recall_at_1"

    @property
    def name(self) -> str:
        """Name of the study, and of the files of its report."""
        return self.file.stem

    @property
    def runs(self) -> int:
        """Number of runs, without those by which settings are chosen."""
        return sum(len(self.seeds) if variant.train else 1 for variant in self.variants)

    def tuning_trials(self) -> list[Trial]:
        """Return the runs by which settings are chosen: they are evaluated on val, never on test."""
        if self.tune is None:
            return []
        return [
            self._trial(f"tune/{variant.name}/setting-{number}", variant, setting, seed, test=False)
            for number in range(len(self.tune.settings[self.variants[0].name]))
            for variant in self.variants
            for setting in (self.tune.settings[variant.name][number],)
            for seed in self.tune.seeds
        ]

    def trials(self, chosen: Mapping[str, int]) -> list[Trial]:
        """Return the runs of the study, seed by seed. ``chosen``: index of each variant's setting.

        A variant without anything to train is evaluated once: nothing in it depends on the seed.
        """
        settings = {} if self.tune is None else {v: s[chosen[v]] for v, s in self.tune.settings.items()}
        return [
            self._trial(f"study/{variant.name}", variant, settings.get(variant.name, {}), seed, test=True)
            for seed in self.seeds
            for variant in self.variants
            if variant.train or seed == self.seeds[0]
        ]

    def timing_trials(self, steps: int) -> list[Trial]:
        """Return short trainings, ``steps`` after the first ones, that tell what a step of each variant costs."""
        length = (f"--trainer.max_steps={WARM_STEPS + steps}", "--trainer.limit_val_batches=0")
        trials = []
        for variant in self.variants:
            if variant.train:
                setting = {} if self.tune is None else self.tune.settings[variant.name][0]
                trial = self._trial(f"timing-{steps}/{variant.name}", variant, setting, self.seeds[0], test=False)
                trials.append(replace(trial, flags=(*trial.flags, *length)))
        return trials

    def _trial(self, folder: str, variant: Variant, setting: Mapping[str, Any], seed: int, test: bool) -> Trial:
        flags = (*variant.flags, *flags_of(setting, self.file.parent), f"--seed_everything={seed}")
        first = "fit" if variant.train else "validate"
        return Trial(f"{folder}/seed-{seed}", variant.name, seed, flags, (first, "test") if test else (first,))


def flags_of(overrides: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the arguments of experiments.run for dotted keys; ``config`` names one or more overlay files.

    Raises:
        MissingFileError: if there is no config of this name.
    """
    flags = []
    for key, value in overrides.items():
        if key == "config":
            files = [value] if isinstance(value, str) else value
            flags += [f"--config={find_config(name, folder)}" for name in files]
        else:
            flags.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return flags


def find_config(name: str, folder: Path) -> Path:
    """Return a config: beside the study, in ``configs/overlays``, or as `packaged` finds it."""
    places = [folder / name, OVERLAYS / name]
    path = next((place for place in places if place.is_file()), None) or packaged("configs", name)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
