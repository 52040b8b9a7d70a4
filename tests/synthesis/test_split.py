"""The split: no image on both sides, and a share as near as can be."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextcir.synthesis.outputs.manifest import Components, choose

IMAGES = st.integers(0, 9)


@given(st.lists(st.tuples(IMAGES, IMAGES), max_size=12), st.randoms())
def test_groups_are_the_connected_components(pairs: list[tuple[int, int]], random: object) -> None:
    components = Components(10)
    for pair in pairs:
        components.join(pair)
    groups = [{image} for image in {image for pair in pairs for image in pair}]
    for pair in pairs:  # the same by joining sets
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set().union(*touched)]
    assert {frozenset(group) for group in groups} == {
        frozenset(image for image in set().union(*groups) if components.find(image) == name)
        for name in {components.find(image) for pair in pairs for image in pair}
    }
    again = Components(10)
    random.shuffle(pairs)
    for pair in pairs:
        again.join(pair)
    assert all(components.find(image) == again.find(image) == min(group) for group in groups for image in group)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.floats(0, 0.99), st.integers(0, 3))
def test_no_choice_of_groups_is_nearer_to_the_share(sizes: list[int], share: float, seed: int) -> None:
    groups = {f"g{number}": size for number, size in enumerate(sizes)}
    wanted = round(share * sum(sizes))
    chosen = choose(groups, share, seed)
    reached = sum(groups[name] for name in chosen)
    possible = {sum(some) for count in range(len(sizes)) for some in combinations(sizes, count)}
    assert reached in possible
    assert abs(reached - wanted) == min(abs(total - wanted) for total in possible)
    assert chosen == choose(dict(reversed(groups.items())), share, seed)


def test_the_seed_draws_the_groups() -> None:
    groups = {f"g{number}": 2 for number in range(40)}
    draws = {frozenset(choose(groups, 0.25, seed)) for seed in range(10)}
    assert len(draws) == 10 and all(len(draw) == 10 for draw in draws)


def test_a_single_group_is_not_taken_apart() -> None:
    assert choose({"all": 100}, 0.4, 0) == set()


def test_many_groups_are_split_in_no_time() -> None:
    groups = {f"g{number}": 2 * (number % 50 + 1) for number in range(20_000)}
    share = (0.1 * sum(groups.values()) + 1) / sum(groups.values())
    assert sum(groups[name] for name in choose(groups, share, 0)) in {102_000, 102_002}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_told(share: float) -> None:
    with pytest.raises(ValueError, match=r"\(write\.val_share\)"):
        choose({"a": 1}, share, 0)
