"""What a study's YAML means: which runs with which flags, and what is refused."""

from pathlib import Path

import pytest
import yaml

from contextcir.errors import InputError, MissingFileError
from experiments.study.__main__ import split_flags
from experiments.study.file import read_plan
from experiments.study.plan import Plan
from tests.helpers.paths import STUDIES

STUDY = {
    "configs": ["base.yaml", "scenes.yaml"],
    "overrides": {"trainer.max_steps": 5},
    "factors": {
        "concept": {"none": {"model.concept": None}, "a": {"model.concept": {"class_path": "A"}}},
        "fusion": {"cross": {}, "layer": {"config": "one_layer.yaml"}},
    },
    "seeds": [1, 2],
    "reference": {"concept": "none"},
    "tune": {
        "metric": "val.composed.recall_at_1",
        "seeds": [7],
        "settings": [{"x.lr": 1}, {"x.lr": 2}],
        "of": {"a": [{"x.weight": 0.1}, {"x.weight": True}]},
    },
    "metrics": {"R@1": "val.composed.recall_at_1"},
}


def read(tmp_path: Path, extra: tuple[str, ...] = (), **changes: object) -> Plan:
    content = {name: value for name, value in (STUDY | changes).items() if value is not ...}
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_plan(tmp_path / "it.yaml", extra)


def test_factors_give_all_combinations_with_their_flags_in_order(tmp_path: Path) -> None:
    plan = read(tmp_path, ("--data.root=here",))
    assert [variant.name for variant in plan.variants] == ["none-cross", "none-layer", "a-cross", "a-layer"]
    flags = plan.variants[3].flags
    assert [Path(flag.removeprefix("--config=")).name for flag in flags if flag.startswith("--config=")] == [
        "base.yaml",
        "scenes.yaml",
        "one_layer.yaml",
    ]
    assert [flag for flag in flags if not flag.startswith("--config=")] == [
        "--trainer.max_steps=5",
        "--data.root=here",
        '--model.concept={"class_path": "A"}',
    ]
    assert "--model.concept=null" in plan.variants[0].flags
    assert plan.references == {"a-cross": "none-cross", "a-layer": "none-layer"}


def test_every_variant_gets_every_seed_with_its_setting_and_is_tested(tmp_path: Path) -> None:
    plan = read(tmp_path)
    trials = plan.trials({"none-cross": 1, "none-layer": 0, "a-cross": 1, "a-layer": 0})
    assert len(trials) == 8 and len({trial.name for trial in trials}) == 8
    by_name = {trial.name: trial for trial in trials}
    assert by_name["study/none-cross/seed-2"].flags[-2:] == ("--x.lr=2", "--seed_everything=2")
    assert by_name["study/a-cross/seed-1"].flags[-2:] == ("--x.weight=true", "--seed_everything=1")
    assert by_name["study/a-layer/seed-1"].flags[-2:] == ("--x.weight=0.1", "--seed_everything=1")
    assert {trial.subcommands for trial in trials} == {("fit", "test")}


def test_tuning_never_tests_and_gives_every_variant_as_many_runs(tmp_path: Path) -> None:
    trials = read(tmp_path).tuning_trials()
    counts = {trial.variant: sum(other.variant == trial.variant for other in trials) for trial in trials}
    assert counts == dict.fromkeys(("none-cross", "none-layer", "a-cross", "a-layer"), 2)
    assert {trial.seed for trial in trials} == {7}
    assert all(trial.subcommands == ("fit",) and trial.name.startswith("tune/") for trial in trials)


def test_variants_without_anything_to_train_are_validated(tmp_path: Path) -> None:
    plan = read(tmp_path, untrained=["none"])
    assert [variant.train for variant in plan.variants] == [False, False, True, True]
    trials = plan.trials(dict.fromkeys(plan.references | {"none-cross": 0, "none-layer": 0}, 0))
    assert trials[0].subcommands == ("validate", "test")
    counts = {variant.name: sum(trial.variant == variant.name for trial in trials) for variant in plan.variants}
    assert counts == {"none-cross": 1, "none-layer": 1, "a-cross": 2, "a-layer": 2} and plan.runs == 6


def test_a_plain_list_of_variants_is_compared_with_one_of_them(tmp_path: Path) -> None:
    plan = read(tmp_path, factors=..., variants={"x": None, "y": {"k.v": 1}}, reference="x", tune=...)
    assert [variant.name for variant in plan.variants] == ["x", "y"] and plan.references == {"y": "x"}
    assert plan.tuning_trials() == [] and len(plan.trials({})) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, "sedes is not known"),
        ({"seeds": [1, 1]}, "seeds must be a list of different seeds"),
        ({"seeds": [7, 8]}, r"tune.seeds must not be seeds of the study, got \[7\]"),
        ({"configs": []}, "configs must list"),
        ({"configs": ["no.yaml"]}, "no file no.yaml, and none of the project's configs has this name"),
        ({"factors": None}, "variants \\(or factors\\) must name"),
        ({"factors": {"a": {"x/y": {}}}}, "expected letters"),
        ({"overrides": {"seed_everything": 3}}, "overrides has seed_everything, which the study sets itself"),
        ({"reference": "other"}, "reference is 'other', which is no variant"),
        ({"reference": {"concept": "b"}}, "which is no variant"),
        ({"untrained": ["zero"]}, "untrained names 'zero', which is none of"),
        ({"metrics": {}}, "metrics must name"),
        ({"tune": STUDY["tune"] | {"of": {"a": [{}]}}}, "as many settings, got .*'a-cross': 1"),
        ({"tune": STUDY["tune"] | {"of": {"b": [{}, {}]}}}, "tune.of names 'b'"),
        ({"tune": STUDY["tune"] | {"settings": []}}, "tune.settings of none-cross must be a list"),
        ({"tune": STUDY["tune"] | {"of": {"a": [{}] * 2, "cross": [{}] * 2}}}, "give a-cross its own"),
        ({"tune": {"seeds": [7], "settings": [{}]}}, "tune must have metric"),
        ({"": 3, "sedes": [1]}, "is not known"),
        ({"factors": {"a": {"..": {}}}}, "expected letters"),
        ({"factors": {f: {str(n): {} for n in range(99)} for f in "abc"}}, "970,299 combinations"),
        ({"configs": [3]}, "config must be a list of texts"),
        ({"overrides": {"config": 3}}, "config must be a list of texts"),
        ({"overrides": {"a b\n": 3}}, "expected a setting such as"),
        ({"seeds": [10**30]}, "from 0 to 4294967295"),
        ({"seeds": "1" * 999}, "must be a list of different seeds"),
        ({"untrained": 3}, "untrained must be a list of texts"),
        ({"untrained": [[]]}, "untrained must be a list of texts"),
        ({"reference": {"concept": []}}, "reference.concept must be a text"),
        ({"title": {}}, "title must be a text"),
        ({"tune": STUDY["tune"] | {"metric": {}}}, "tune.metric must be a text"),
        ({"metrics": {"a": {"b": 3}}}, "metrics.a.b must be a text"),
    ],
)
def test_mistakes_name_the_key(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, **changes)


def test_what_is_no_study_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*no.yaml, and none of the project's studies has this name"):
        read_plan(tmp_path / "no.yaml")
    file = tmp_path / "it.yaml"
    for text, words in (
        ("- a", r"it.yaml: expected a mapping of the keys of a study, found a list \(\['a'\]\)"),
        ("a: [", "it.yaml: not valid YAML"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            read_plan(file)


def test_a_study_of_the_project_is_found_by_its_name() -> None:
    assert read_plan("text_cc") == read_plan(STUDIES / "text_cc.yaml")
    with pytest.raises(MissingFileError, match="close to it: text_cc, text_cc_long"):
        read_plan("textcc")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_of_the_project_can_be_read(file: Path) -> None:
    plan = read_plan(file)
    assert len({variant.flags for variant in plan.variants}) == len(plan.variants)
    if plan.tune is not None:  # every variant may try as many settings
        assert {len(plan.tune.settings[variant.name]) for variant in plan.variants} == {
            len(plan.tune.settings[plan.variants[0].name])
        }


def test_arguments_for_the_runs_are_collected() -> None:
    assert split_flags(["x.yaml", "--jobs", "2", "--list", "--data.root=a", "--trainer.callbacks+=B"]) == [
        "x.yaml",
        "--jobs",
        "2",
        "--list=true",
        '--flags=["--data.root=a", "--trainer.callbacks+=B"]',
    ]
    with pytest.raises(ValueError, match="write --data.root=VALUE"):
        split_flags(["--data.root", "a"])
