"""The YAML file of a study.

All keys but ``configs``, ``variants`` or ``factors``, ``seeds`` and ``metrics`` may be left out:

    title: the question, for the report
    configs: [base.yaml, scenes.yaml]           # beside the study, or in experiments/configs or its overlays
    overrides: {trainer.max_steps: 660}         # for all runs; arguments of experiments.run without their dashes
    variants: {none: {model.concept: null}, a: {config: my_overlay.yaml}}
    factors: {fusion: {cross: {}, concept: {model.fusion: ConceptAttentionFusion}}}   # all combinations
    untrained: [image_only]                     # variants with nothing to train: validate instead of fit
    seeds: [1, 2, 3, 4, 5]
    reference: none                             # a variant, or {factor: level}: the same in all else
    tune:
      metric: val.composed.recall_at_1          # the setting of the highest mean over the tuning seeds is chosen
      seeds: [101]
      settings: [{model.optimizer.lr: 0.001}, {model.optimizer.lr: 0.002}]
      of: {a: [...]}                            # other settings of a variant or a level, but as many
    metrics: {"By concepts": {"R@1, * concepts": test.composed.recall_at_1_concepts_*}}
    compare:                                    # the questions that the report answers first: `of` minus `minus`
      figures: {R@1: val+test.composed.recall_at_1}   # over the queries of several splits
      pairs: [{question: "Does it help?", of: a, minus: none}]
    curve: val.composed.recall_at_1             # the figure to follow during training; this one by default
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from contextcir.checks import folder_name
from contextcir.errors import InputError, shown
from experiments.flags import packaged
from experiments.study.plan import Pair, Plan, Tune, Variant, flags_of
from experiments.study.queries import FIGURE
from experiments.yaml_files import read_mapping

NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+]*")  # of a folder: neither hidden nor the one above
KEY = re.compile(r"[A-Za-z_][\w.]*\+?")
CURVE = re.compile(r"\w+\.composed\.\w+")
MOST_SEED = 2**32 - 1  # that NumPy takes
MOST_RUNS = 10_000
RESERVED = {"name", "seed_everything", "trainer.default_root_dir", "ckpt_path"}  # arguments that a study sets itself
KEYS = {
    "title", "configs", "overrides", "variants", "factors", "untrained", "seeds", "reference", "tune", "metrics",
    "compare", "curve"
}  # fmt: skip


def read_plan(file: str | Path, extra: Sequence[str] = ()) -> Plan:
    """Return the study of a YAML file, given by its path or as a bare name of the project's own.

    Args:
        file: path or name.
        extra: arguments of experiments.run for every run, after the overrides of the study.

    Raises:
        MissingFileError: if there is no such file, or no config of a name in it.
        InputError: if its content is not a study; the message names the key.
    """
    path = packaged("studies", file)
    return _Reader(path, read_mapping(path, "the keys of a study")).plan(extra)


class _Reader:
    """Checks the content of a study's file, and turns it into a plan."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self.file = file
        self.content = content
        unknown = sorted(str(key) for key in content if key not in KEYS)
        if unknown:
            self.fail(unknown[0], f"is not known; expected {', '.join(sorted(KEYS))}")

    def fail(self, key: str, problem: str) -> NoReturn:
        raise InputError(problem, file=self.file, field=key)

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(key, f"must be a mapping, got {shown(value)}")
        return {str(name): item for name, item in value.items()}

    def seeds(self, key: str, value: Any) -> tuple[int, ...]:
        valid = (
            isinstance(value, list) and value and all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in value)
        )
        if not valid or len(set(value)) != len(value):
            self.fail(key, f"must be a list of different seeds, from 0 to {MOST_SEED}, got {shown(value)}")
        return tuple(value)

    def texts(self, key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            self.fail(key, f"must be a list of texts, got {shown(value)}")
        return value

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            self.fail(key, f"must be a text, got {shown(value)}")
        return value

    def flags(self, key: str, overrides: Any) -> list[str]:
        values = self.mapping(key, overrides)
        for reserved in sorted(RESERVED & set(values)):
            self.fail(key, f"has {reserved}, which the study sets itself: leave it out")
        for setting in values:
            if not KEY.fullmatch(setting):
                self.fail(key, f"has {shown(setting)}, expected a setting such as model.optimizer.lr")
        if "config" in values:
            configs = values["config"]
            self.texts(f"{key}.config", [configs] if isinstance(configs, str) else configs)
        return flags_of(values, self.file.parent)

    def plan(self, extra: Sequence[str]) -> Plan:
        configs = self.content.get("configs")
        if not configs or not isinstance(configs, list):
            self.fail("configs", "must list the configs that all runs begin with")
        common = self.flags("configs", {"config": configs})
        common += [*self.flags("overrides", self.content.get("overrides")), *extra]
        variants = self.variants(common)
        seeds = self.seeds("seeds", self.content.get("seeds"))
        return Plan(
            file=self.file,
            title=self.text("title", self.content.get("title", self.file.stem)),
            variants=variants,
            seeds=seeds,
            references=self.references(variants),
            tune=self.tune(variants, seeds),
            metrics=self.metrics(),
            pairs=self.pairs(variants),
            answers=self.answers(),
            curve=self.curve(),
        )

    def variants(self, common: Sequence[str]) -> tuple[Variant, ...]:
        factors = {"variant": self.mapping("variants", self.content.get("variants"))}
        factors |= self.mapping("factors", self.content.get("factors"))
        factors = {factor: self.mapping(factor, levels) for factor, levels in factors.items() if levels}
        if (count := math.prod(map(len, factors.values()))) > MOST_RUNS:
            self.fail("factors", f"have {count:,} combinations, expected at most {MOST_RUNS:,}")
        if not factors:
            self.fail("variants", "(or factors) must name what is compared")
        for factor, level in ((factor, level) for factor, levels in factors.items() for level in levels):
            if not NAME.fullmatch(level):
                self.fail(factor, f"has {shown(level)}, expected letters, digits, _ + and, not at first, .")
        untrained = set(self.texts("untrained", self.content.get("untrained") or []))
        variants = []
        for combination in itertools.product(*factors.values()):
            levels = dict(zip(factors, combination, strict=True))
            flags = [flag for f, level in levels.items() for flag in self.flags(f"{f}.{level}", factors[f][level])]
            name = folder_name("-".join(combination), "variants")
            variants.append(Variant(name, levels, (*common, *flags), not untrained & {name, *combination}))
        self.check_named("untrained", untrained, variants)
        return tuple(variants)

    def check_named(self, key: str, names: Iterable[str], variants: Sequence[Variant]) -> None:
        known = {name for variant in variants for name in (variant.name, *variant.levels.values())}
        for name in sorted(set(names) - known):
            self.fail(key, f"names {name!r}, which is none of {', '.join(sorted(known))}")

    def references(self, variants: Sequence[Variant]) -> dict[str, str]:
        """The variant that each one is compared with, without the references themselves."""
        given = self.content.get("reference")
        if given is None:
            return {}
        if isinstance(given, dict):
            for factor, level in self.mapping("reference", given).items():
                self.text(f"reference.{factor}", level)
            by_levels = {tuple(variant.levels.items()): variant.name for variant in variants}
            pairs = {v.name: by_levels.get(tuple((v.levels | given).items())) for v in variants}
        else:
            pairs = {variant.name: str(given) for variant in variants}
        if not set(pairs.values()) <= {variant.name for variant in variants}:
            self.fail("reference", f"is {shown(given)}, which is no variant: expected a name, or a level of a factor")
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
        special = self.mapping("tune.of", given.get("of"))
        self.check_named("tune.of", special, variants)
        settings = {}
        for variant in variants:
            names = [name for name in (variant.name, *variant.levels.values()) if name in special]
            if variant.name not in special and len(names) > 1:
                self.fail("tune.of", f"has settings for {' and '.join(names)}: give {variant.name} its own")
            candidates = special[names[0]] if names else given.get("settings")
            if not isinstance(candidates, list) or not candidates:
                self.fail("tune.settings", f"of {variant.name} must be a list of overrides, got {shown(candidates)}")
            settings[variant.name] = tuple(self.mapping("tune.settings", candidate) for candidate in candidates)
            for candidate in settings[variant.name]:
                self.flags("tune.settings", candidate)
        counts = {name: len(candidates) for name, candidates in settings.items()}
        if len(set(counts.values())) > 1:
            self.fail("tune", f"must give every variant as many settings, got {counts}")
        return Tune(self.text("tune.metric", given["metric"]), own_seeds, settings)

    def compare(self) -> dict[str, Any]:
        given = self.mapping("compare", self.content.get("compare"))
        if given and set(given) != {"figures", "pairs"}:
            self.fail("compare", f"must have figures and pairs, got {', '.join(given)}")
        return given

    def answers(self) -> dict[str, str]:
        figures = self.mapping("compare.figures", self.compare().get("figures"))
        for label, name in figures.items():
            if not FIGURE.fullmatch(self.text(f"compare.figures.{label}", name)):
                example = "val+test.composed.recall_at_1_concepts_3+4"
                self.fail(f"compare.figures.{label}", f"is {shown(name)}, expected a figure by query such as {example}")
        return figures

    def pairs(self, variants: Sequence[Variant]) -> tuple[Pair, ...]:
        given = self.compare().get("pairs")
        if given is None:
            return ()
        if not isinstance(given, list) or not all(isinstance(pair, dict) for pair in given):
            self.fail("compare.pairs", f"must be a list of mappings, got {shown(given)}")
        names = [variant.name for variant in variants]
        pairs = []
        for number, pair in enumerate(given):
            key = f"compare.pairs.{number}"
            if set(pair) != {"question", "of", "minus"}:
                self.fail(key, f"must have question, of and minus, got {shown(list(pair))}")
            for side in ("of", "minus"):
                if pair[side] not in names:
                    self.fail(f"{key}.{side}", f"is {shown(pair[side])}, which is none of {', '.join(names)}")
            pairs.append(Pair(self.text(f"{key}.question", pair["question"]), pair["of"], pair["minus"]))
        return tuple(pairs)

    def curve(self) -> str:
        name = self.text("curve", self.content.get("curve", "val.composed.recall_at_1"))
        if not CURVE.fullmatch(name):
            self.fail("curve", f"is {shown(name)}, expected a figure of the composed query, SPLIT.composed.METRIC")
        return name

    def metrics(self) -> dict[str, dict[str, str]]:
        sections = self.mapping("metrics", self.content.get("metrics"))
        if not sections:
            self.fail("metrics", "must name the metrics to report")
        if all(isinstance(pattern, str) for pattern in sections.values()):
            return {"": sections}
        named = {name: self.mapping(f"metrics.{name}", labels) for name, labels in sections.items()}
        for name, labels in named.items():
            for label, pattern in labels.items():
                self.text(f"metrics.{name}.{label}", pattern)
        return named
