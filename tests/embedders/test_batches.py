"""Batches of items: each once, of like parts, within the limits."""

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contextcir.embedders.batches import batches, tokens_of

SIZES = [None, *((side, side) for side in (28, 280, 1000))]
ITEMS = st.lists(
    st.tuples(st.sampled_from(SIZES), st.one_of(st.none(), st.text(max_size=300))).filter(lambda i: i != (None, None)),
    max_size=20,
)


@given(ITEMS, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 3000)))
def test_every_item_is_in_one_batch_of_its_kind(items: list, size: int, tokens: int | None) -> None:
    made = [(None if side is None else Image.new("RGB", side), text) for side, text in items]
    found = list(batches(made, size, tokens))
    assert sorted(place for batch in found for place in batch) == list(range(len(made)))
    for batch in found:
        assert len({(made[p][0] is None, made[p][1] is None) for p in batch}) == 1 and len(batch) <= size
        padded = len(batch) * max(tokens_of(made[place]) for place in batch)
        assert tokens is None or len(batch) == 1 or padded <= tokens
