"""Named groups of queries by lists of their ids: strata of the protocol, refused where an id is unknown."""

from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError
from data_modules import CIRR, Mixture
from tests.helpers.make_data import make_cirr, preprocess, write_json


def data(root: Path, subsets: Any, **options: Any) -> CIRR:
    return CIRR(make_cirr(root), subsets=subsets, preprocess=preprocess, num_workers=0, **options)


@pytest.mark.parametrize("ids", [[1011, 1000], ["1011", "1000"], {"val": [1011, 1000], "elsewhere": [7]}])
def test_a_list_of_ids_becomes_a_stratum(tmp_path: Path, ids: Any) -> None:
    write_json(tmp_path / "ids.json", ids)
    plain, protocol = (
        data(tmp_path / "cirr", subsets).protocols("val")[0]
        for subsets in (None, {"validated": str(tmp_path / "ids.json")})
    )
    assert protocol.query_ids == (1000, 1001, 1002, 1010, 1011, 1012)
    assert protocol.strata == {"validated": (0, 4)} and plain.strata == {}
    assert protocol.describe()["strata"] == {"validated": 2}
    assert "recall_at_1_validated" in protocol.logged_names() and "recall_at_10_validated" not in plain.logged_names()


def test_a_split_that_the_file_does_not_name_has_no_such_stratum(tmp_path: Path) -> None:
    write_json(tmp_path / "ids.json", {"val": [1000]})
    both = data(tmp_path / "cirr", {"validated": str(tmp_path / "ids.json")}, test_splits=["test1"])
    assert [p.strata for stage in ("val", "test") for p in both.protocols(stage)] == [{"validated": (0,)}, {}]


def test_the_subsets_of_a_mixture_are_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "ids.json", [1000])
    sets = [CIRR(make_cirr(tmp_path / "cirr"))]
    mixed = Mixture(sets, subsets={"few": str(tmp_path / "ids.json")}, preprocess=preprocess)
    assert mixed.protocols("val")[0].strata == {"few": (0,)}


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("validated", [1000, 5, 6], "names 2 of 3 ids that are no query of cirr val, the first is 5"),
        ("validated", [1000, 1001, 1000], "names query 1000 twice"),
        ("validated", [], "expected a list of query ids, or an object of such lists by split, got []"),
        ("validated", {"val": "all"}, "expected a list of query ids"),
        ("validated", 7, "expected a list of query ids"),
        ("validated", [1000, True], "expected the id of a query, a whole number, got True"),
        ("validated", ["1000 "], "expected the id of a query, a whole number, got '1000 '"),
        ("validated", [1000.0], "expected the id of a query, a whole number, got 1000.0"),
        ("a b", [1000], "expected a word (letters, digits, _) as the name of a subset, got 'a b'"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path: Path, name: str, ids: Any, message: str) -> None:
    write_json(tmp_path / "ids.json", ids)
    with pytest.raises(InputError) as refused:
        data(tmp_path / "cirr", {name: str(tmp_path / "ids.json")}).protocols("val")
    assert message in str(refused.value) and "(data.subsets)" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_name_that_is_taken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ids.json.*data.subsets"):
        data(tmp_path / "cirr", {"validated": str(tmp_path / "ids.json")}).protocols("val")
