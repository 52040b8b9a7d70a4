"""Ranks by query, against similarities written out by hand, and against the figures of the recall table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from callbacks.negatives import NegativeRoles
from callbacks.query_results import QueryResults
from callbacks.recall import RecallTable
from tests.callbacks.test_negatives import RoleData, some_roles
from tests.callbacks.test_recall import ToyModule, make_trainer, saved
from tests.helpers.toy_evaluation import QUERIES, ToyData, image_embeddings, make_protocol, text_embeddings


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "queries.json").read_text())


def similarities() -> list[list[float]]:
    references = image_embeddings()[list(make_protocol("val").references)]
    return (normalize(references + 3.0 * text_embeddings()[:QUERIES]) @ normalize(image_embeddings()).T).tolist()


def naive_rank(scores: list[float], targets: tuple[int, ...], rivals: set[int]) -> int:
    best = max(scores[target] for target in targets)
    return 1 + sum(scores[rival] >= best for rival in rivals - set(targets))


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_every_query_has_its_rank_in_gallery_and_subset(stage: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[QueryResults(), RecallTable(), NegativeRoles()])
    run = getattr(trainer, stage)
    run(ToyModule(), datamodule=RoleData(), **({} if stage == "fit" else {"verbose": False}))
    split = "test" if stage == "test" else "val"
    found, protocol, scores = written(tmp_path)[split], make_protocol(split), similarities()
    assert found["queries"] == list(protocol.query_ids)
    assert found["references"] == [protocol.gallery[place] for place in protocol.references]
    assert found["strata"] == {name: list(members) for name, members in protocol.strata.items()}
    everything = set(range(len(protocol.gallery)))
    for query in range(QUERIES):
        out = {protocol.references[query]}
        rivals = everything - out if protocol.exclude_reference else everything
        ranks, targets = found["rows"]["composed"], protocol.targets[query]
        assert ranks["rank"][query] == naive_rank(scores[query], targets, rivals)
        assert ranks["subset_rank"][query] == naive_rank(scores[query], targets, set(protocol.subsets[query]) - out)
        for role, outcomes in found["target_before"].items():
            members = [protocol.gallery.index(name) for name, r in some_roles(protocol)[query].items() if r == role]
            best = max(scores[query][target] for target in targets)
            assert outcomes[query] == (all(best > scores[query][member] for member in members) if members else None)


def test_figures_follow_from_the_ranks(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[RecallTable(), QueryResults()])
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    found, figures = written(tmp_path)["val"], saved(tmp_path)["validate"]["val"]["rows"]
    assert set(found["rows"]) == {"composed", "image_only", "text_only", "sum"} and "target_before" not in found
    for row, ranks in found["rows"].items():
        share = 100 * sum(rank == 1 for rank in ranks["rank"]) / QUERIES
        assert figures[row]["recall_at_1"] == pytest.approx(share, abs=1e-3)


def test_a_later_evaluation_keeps_the_other_splits_and_the_sanity_check_writes_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[QueryResults()], num_sanity_val_steps=-1, limit_train_batches=0)
    trainer.fit(ToyModule(), datamodule=ToyData())
    assert not (tmp_path / "queries.json").exists()
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    trainer.test(ToyModule(), datamodule=ToyData(), verbose=False)
    assert set(written(tmp_path)) == {"val", "hard", "test"}


def test_queries_that_were_not_seen_and_targets_that_are_missing_are_told_apart(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[QueryResults()], limit_val_batches=1)
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    ranks = written(tmp_path)["val"]["rows"]["composed"]["rank"]
    assert None in ranks and any(rank is not None for rank in ranks)
    assert torch.tensor([rank for rank in ranks if rank is not None]).min() >= 0


def test_hidden_labels_write_no_file(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[QueryResults()])
    trainer.validate(ToyModule(), datamodule=ToyData(labelled=False), verbose=False)
    assert not (tmp_path / "queries.json").exists()
