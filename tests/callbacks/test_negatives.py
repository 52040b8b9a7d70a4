"""Targets against hard negatives by role, against a count by hand; and the roles that scenes name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.negatives import NegativeRoles, RoleMetric
from contextcir.evaluation.protocol import Protocol
from data_modules import Scenes
from data_modules.scenes.writer import Size, write_scenes
from tests.callbacks.test_recall import make_trainer, saved
from tests.helpers.toy_evaluation import (
    GALLERY,
    QUERIES,
    ToyData,
    ToyModule,
    image_embeddings,
    make_protocol,
    text_embeddings,
)

ROLES = ("swapped", "wrong object")


def by_hand(scores: list[list[float]], protocol: Protocol, roles: list[dict[str, str]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for group, chosen in {"": range(len(scores)), **{f"_{k}": of for k, of in protocol.strata.items()}}.items():
        for role in {role for of in roles for role in of.values()}:
            before, first, count = 0, 0, 0
            for query in chosen:
                of = {scores[query][protocol.gallery.index(name)]: r for name, r in roles[query].items()}
                mine = [score for score, r in of.items() if r == role]
                if not mine:
                    continue
                target = max(scores[query][index] for index in protocol.targets[query])
                count += 1
                before += all(target > score for score in mine)
                first += max(mine) >= max([target, *of])
            if count:
                figures[f"target_before_{role.replace(' ', '_')}{group}"] = 100 * before / count
                figures[f"first_{role.replace(' ', '_')}{group}"] = 100 * first / count
    return figures


def some_roles(protocol: Protocol) -> list[dict[str, str]]:
    """The subset's members but reference and target in turn; the last query has no member of the second role."""
    roles = []
    for query, subset in enumerate(protocol.subsets):
        others = [i for i in subset if i not in (*protocol.targets[query], protocol.references[query])]
        roles.append({protocol.gallery[i]: ROLES[place % 2] for place, i in enumerate(others)})
    roles[-1] = {name: role for name, role in roles[-1].items() if role == ROLES[0]}
    return roles


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_shares_are_those_counted_by_hand(seed: int) -> None:
    protocol, draw = make_protocol("val"), torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(QUERIES, 6, generator=draw), torch.randn(GALLERY, 6, generator=draw)
    scores = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(gallery).T
    metric = RoleMetric(protocol, some_roles(protocol))
    metric.update_gallery(torch.arange(GALLERY), gallery)
    metric.update_queries(torch.arange(QUERIES).flip(0), queries.flip(0))  # in any order
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(by_hand(scores.tolist(), protocol, some_roles(protocol)), abs=1e-3)


def test_ties_and_broken_embeddings_count_against_the_target() -> None:
    protocol = make_protocol("val")
    for value in (1.0, float("nan")):
        metric = RoleMetric(protocol, some_roles(protocol))
        metric.update_gallery(torch.arange(GALLERY), torch.full((GALLERY, 4), value))
        metric.update_queries(torch.arange(QUERIES), torch.full((QUERIES, 4), value))
        found = {name: figure.item() for name, figure in metric.compute().items()}
        assert found and all(figure == (100.0 if name.startswith("first") else 0.0) for name, figure in found.items())


def test_what_was_not_fed_and_hidden_labels_give_no_figures() -> None:
    protocol = make_protocol("val")
    assert RoleMetric(protocol, some_roles(protocol)).compute() == {}
    hidden = make_protocol("val", labelled=False)
    metric = RoleMetric(hidden, [{}] * QUERIES)
    metric.update_gallery(torch.arange(GALLERY), torch.randn(GALLERY, 4))
    metric.update_queries(torch.arange(QUERIES), torch.randn(QUERIES, 4))
    assert metric.compute() == {}


def test_roles_of_images_outside_the_gallery_are_left_out() -> None:
    protocol = replace(make_protocol("val"), strata={})
    roles = [{"no such image": "swapped"} for _ in range(QUERIES)]
    roles[2] = some_roles(protocol)[2]
    metric = RoleMetric(protocol, roles)
    metric.update_gallery(torch.arange(GALLERY), image_embeddings())
    metric.update_queries(torch.arange(QUERIES), text_embeddings())
    found = {name: value.item() for name, value in metric.compute().items()}
    scores = torch.nn.functional.normalize(text_embeddings()) @ torch.nn.functional.normalize(image_embeddings()).T
    only = [roles[2] if query == 2 else {} for query in range(QUERIES)]
    assert found == pytest.approx(by_hand(scores.tolist(), protocol, only), abs=1e-3)


class RoleData(ToyData):
    """The first protocol's members have roles."""

    def member_roles(self, split: str) -> dict[int, dict[str, str]]:
        protocol = make_protocol(split)
        return {} if split == "hard" else dict(zip(protocol.query_ids, some_roles(protocol), strict=True))


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_figures_are_logged_and_saved_for_splits_with_roles(stage: str, tmp_path: Path) -> None:
    trainer, module = make_trainer(tmp_path, callbacks=[NegativeRoles()]), ToyModule()
    if stage == "fit":
        trainer.fit(module, datamodule=RoleData())
    else:
        getattr(trainer, stage)(module, datamodule=RoleData(), verbose=False)
    split = "test" if stage == "test" else "val"
    results = saved(tmp_path)["fit_end" if stage == "fit" else stage]
    assert list(results) == [split]
    protocol = make_protocol(split)
    images = torch.nn.functional.normalize(image_embeddings())
    queries = torch.nn.functional.normalize(image_embeddings()[:QUERIES] + 3.0 * text_embeddings())
    expected = by_hand((queries @ images.T).tolist(), protocol, some_roles(protocol))
    assert results[split] == pytest.approx(expected, abs=1e-3)
    assert trainer.callback_metrics[f"{split}_first_swapped"].item() == pytest.approx(
        expected["first_swapped"], abs=1e-3
    )


def test_data_without_roles_has_no_figures(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[NegativeRoles()])
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    assert not (tmp_path / "metrics.json").exists()


def test_scenes_name_the_roles_of_all_members_but_target_and_reference(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 0, Size(train_references=2, references=2, shared_references=1), workers=1)
    data = Scenes(tmp_path / "scenes")
    protocol, roles = data.protocols("val")[0], data.member_roles("val")
    assert list(roles) == list(protocol.query_ids)
    for query, identity in enumerate(protocol.query_ids):
        others = set(protocol.subsets[query]) - {protocol.references[query], *protocol.targets[query]}
        assert {protocol.gallery.index(name) for name in roles[identity]} == others
        assert list(roles[identity].values()).count("swapped") == 1
    assert data.member_roles("circo_val") == {}
    file = next((tmp_path / "scenes").rglob("cap.*.val.json"))
    records = json.loads(file.read_text())
    records[1]["roles"] = {"x": 3}
    file.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"record 1 \(pairid .*field roles\.x must be a string, got 3"):
        data.member_roles("val")
