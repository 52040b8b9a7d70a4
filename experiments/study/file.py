"""Studies as they are written down.

A study's YAML (all keys but ``configs``, ``variants`` or ``factors``, ``seeds`` and ``metrics`` may be left out):

    title: what is asked, for the report
    configs: [base.yaml, scenes.yaml]           # beside the study, in experiments/configs or in its overlays
    overrides: {trainer.max_steps: 660}         # of all runs; flags of experiments.run without their dashes
    variants: {none: {model.concept: null}, a: {config: my_overlay.yaml}}
    factors: {fusion: {cross: {}, concept: {model.fusion: ConceptAttentionFusion}}}   # all combinations
    untrained: [image_only]                     # variants without anything to train: validate in the place of fit
    seeds: [1, 2, 3, 4, 5]
    reference: none                             # a variant, or {factor: level}: the same in all else
    tune:
      metric: val.composed.recall_at_1          # the highest mean over the tuning seeds is chosen
      seeds: [101]
      settings: [{model.optimizer.lr: 0.001}, {model.optimizer.lr: 0.002}]
      of: {a: [...]}                            # other settings of a variant or a level, but as many
    metrics: {"By concepts": {"R@1, * concepts": test.composed.recall_at_1_concepts_*}}
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from experiments.study.plan import Plan, Tune, Variant, flags_of

NAME = re.compile(r"[A-Za-z0-9_.+]+")
KEYS = {
    "title", "configs", "overrides", "variants", "factors", "untrained", "seeds", "reference", "tune", "metrics"
}  # fmt: skip


def read_plan(file: Path, extra: Sequence[str] = ()) -> Plan:
    """Return the study of a YAML file; ``extra`` flags go to every run, behind the common overrides.

    Raises:
        FileNotFoundError: if the file is missing, or a config that it names.
        ValueError: if it says something that can't be; the message names the key.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"no study {file}: studies are in experiments/studies") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    reader = _Reader(file, content)
    return reader.plan(extra)


class _Reader:
    """Checks what a study's YAML says."""

    def __init__(self, file: Path, content: Any) -> None:
        self.file = file
        self.content = content
        if not isinstance(content, dict):
            self.fail("it", f"must be a mapping, got {content!r}")
        unknown = sorted(set(content) - KEYS)
        if unknown:
            self.fail(unknown[0], f"is not known; expected {', '.join(sorted(KEYS))}")

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ValueError(f"{self.file}: {key} {problem}")

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(key, f"must be a mapping, got {value!r}")
        return {str(name): item for name, item in value.items()}

    def seeds(self, key: str, value: Any) -> tuple[int, ...]:
        good = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
        if not good or len(set(value)) != len(value):
            self.fail(key, f"must be a list of different seeds, got {value!r}")
        return tuple(value)

    def plan(self, extra: Sequence[str]) -> Plan:
        folder, content = self.file.parent, self.content
        configs = content.get("configs")
        if not configs or not isinstance(configs, list):
            self.fail("configs", "must list the configs that all runs begin with")
        common = [*flags_of({"config": configs}, folder)]
        common += [*flags_of(self.mapping("overrides", content.get("overrides")), folder), *extra]
        variants = self.variants(common)
        seeds = self.seeds("seeds", content.get("seeds"))
        return Plan(
            name=self.file.stem,
            title=str(content.get("title", self.file.stem)),
            variants=variants,
            seeds=seeds,
            references=self.references(variants),
            tune=self.tune(variants, seeds),
            metrics=self.metrics(),
            folder=folder,
        )

    def variants(self, common: Sequence[str]) -> tuple[Variant, ...]:
        factors = {"variant": self.mapping("variants", self.content.get("variants"))}
        factors |= self.mapping("factors", self.content.get("factors"))
        factors = {factor: self.mapping(factor, levels) for factor, levels in factors.items() if levels}
        if not factors:
            self.fail("variants", "(or factors) must name what is compared")
        for factor, levels in factors.items():
            for level in levels:
                if not NAME.fullmatch(level):
                    self.fail(factor, f"{level!r} must consist of letters, digits and _ . +")
        untrained = set(self.content.get("untrained") or ())
        variants = []
        for levels in itertools.product(*factors.values()):
            chosen = dict(zip(factors, levels, strict=True))
            flags = [flag for f, level in chosen.items() for flag in self.flags(f"{f}.{level}", factors[f][level])]
            name = "-".join(levels)
            train = not untrained & {name, *levels}
            variants.append(Variant(name, chosen, (*common, *flags), train))
        self.check_named("untrained", untrained, variants)
        return tuple(variants)

    def flags(self, key: str, overrides: Any) -> list[str]:
        try:
            return flags_of(self.mapping(key, overrides), self.file.parent)
        except ValueError as error:
            self.fail(key, str(error))

    def check_named(self, key: str, names: Iterable[str], variants: Sequence[Variant]) -> None:
        known = {name for variant in variants for name in (variant.name, *variant.levels.values())}
        for name in set(names) - known:
            self.fail(key, f"names {name!r}, which is none of {', '.join(sorted(known))}")

    def references(self, variants: Sequence[Variant]) -> dict[str, str]:
        """The variant that each one is compared with, but for the references themselves."""
        given = self.content.get("reference")
        if given is None:
            return {}
        if isinstance(given, dict):
            by_levels = {tuple(variant.levels.items()): variant.name for variant in variants}
            pairs = {v.name: by_levels.get(tuple((v.levels | given).items())) for v in variants}
        else:
            pairs = {variant.name: str(given) for variant in variants}
        if not set(pairs.values()) <= {variant.name for variant in variants}:
            self.fail("reference", f"is {given!r}, which is no variant: expected a name, or a level of a factor")
        return {name: reference for name, reference in pairs.items() if name != reference}

    def tune(self, variants: Sequence[Variant], seeds: Sequence[int]) -> Tune | None:
        if self.content.get("tune") is None:
            return None
        given = self.mapping("tune", self.content["tune"])
        if set(given) - {"metric", "seeds", "settings", "of"} or "metric" not in given:
            self.fail("tune", f"must have metric, seeds, settings and may have of, got {', '.join(given)}")
        own_seeds = self.seeds("tune.seeds", given.get("seeds"))
        if set(own_seeds) & set(seeds):
            self.fail("tune.seeds", f"must not be seeds of the study, got {sorted(set(own_seeds) & set(seeds))}")
        of = self.mapping("tune.of", given.get("of"))
        self.check_named("tune.of", of, variants)
        settings = {}
        for variant in variants:
            names = [name for name in (variant.name, *variant.levels.values()) if name in of]
            if variant.name not in of and len(names) > 1:
                self.fail("tune.of", f"has settings for {' and '.join(names)}: give {variant.name} its own")
            candidates = of[names[0]] if names else given.get("settings")
            if not isinstance(candidates, list) or not candidates:
                self.fail("tune.settings", f"of {variant.name} must be a list of overrides, got {candidates!r}")
            settings[variant.name] = tuple(self.mapping("tune.settings", c) for c in candidates)
            for candidate in settings[variant.name]:
                self.flags(f"tune.settings of {variant.name}", candidate)
        counts = {name: len(candidates) for name, candidates in settings.items()}
        if len(set(counts.values())) > 1:
            self.fail("tune", f"must give every variant as many settings, got {counts}")
        return Tune(str(given["metric"]), own_seeds, settings)

    def metrics(self) -> dict[str, dict[str, str]]:
        sections = self.mapping("metrics", self.content.get("metrics"))
        if not sections:
            self.fail("metrics", "must name the figures to report")
        if all(isinstance(pattern, str) for pattern in sections.values()):
            return {"": sections}
        return {name: self.mapping(f"metrics.{name}", labels) for name, labels in sections.items()}
