"""A study as data: what is varied, over which seeds, and the runs that this takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
RESERVED = {"name", "seed_everything", "trainer.default_root_dir", "ckpt_path"}  # the runner's own


@dataclass(frozen=True)
class Variant:
    """One of the things compared. ``levels``: of each factor; ``flags`` of experiments.run; ``train``: whether to."""

    name: str
    levels: Mapping[str, str]
    flags: tuple[str, ...]
    train: bool


@dataclass(frozen=True)
class Trial:
    """A run. ``name``: its folder below the study's. ``subcommands`` of experiments.run, one after the other."""

    name: str
    variant: str
    seed: int
    flags: tuple[str, ...]
    subcommands: tuple[str, ...]


@dataclass(frozen=True)
class Tune:
    """How settings are chosen. ``settings``: candidates by variant, equally many for each."""

    metric: str
    seeds: tuple[int, ...]
    settings: Mapping[str, tuple[Mapping[str, Any], ...]]


@dataclass(frozen=True)
class Plan:
    """A study. ``metrics``: by section and label, the pattern of the name (see `Figures`)."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    references: Mapping[str, str]
    tune: Tune | None
    metrics: Mapping[str, Mapping[str, str]]
    folder: Path

    def tuning_trials(self) -> list[Trial]:
        """Return the runs that settings are chosen by: they see val, never test."""
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
        """Return the runs of the study, seed by seed. ``chosen``: number of the setting of each variant."""
        return [
            self._trial(
                f"study/{variant.name}",
                variant,
                self.tune.settings[variant.name][chosen[variant.name]] if self.tune else {},
                seed,
                test=True,
            )
            for seed in self.seeds
            for variant in self.variants
        ]

    def _trial(self, folder: str, variant: Variant, setting: Mapping[str, Any], seed: int, test: bool) -> Trial:
        flags = (*variant.flags, *flags_of(setting, self.folder), f"--seed_everything={seed}")
        first = "fit" if variant.train else "validate"
        return Trial(f"{folder}/seed-{seed}", variant.name, seed, flags, (first, "test") if test else (first,))


def flags_of(overrides: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the flags of experiments.run for dotted keys; ``config`` names one or more overlay files."""
    flags = []
    for key, value in overrides.items():
        if key == "config":
            files = [value] if isinstance(value, str) else value
            flags += [f"--config={find_config(name, folder)}" for name in files]
        elif key in RESERVED:
            raise ValueError(f"{key} is set by the study: leave it out")
        else:
            flags.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return flags


def find_config(name: str, folder: Path) -> Path:
    """Return a config by its path from the study's folder, or from that of the configs or their overlays."""
    places = [folder / name, HERE / "configs" / name, HERE / "configs" / "overlays" / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no config {name}: looked for {', '.join(str(place) for place in places)}")
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
