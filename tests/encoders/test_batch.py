"""Batches of phrases, equal ids, captions as the tokenizer reads them, and packages that are not imported."""

import subprocess
import sys

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import get_clean_fn

from contextcir.batch import first_of_each, phrases_of
from contextcir.phrases.parser import Span, clean


def test_spans_become_a_batch():
    phrases = phrases_of([(Span(0, 7), Span(9, 14)), (), [(2, 3)]])
    assert phrases.owner.tolist() == [0, 0, 2] and phrases.spans.tolist() == [[0, 7], [9, 14], [2, 3]]
    assert phrases.boxes.shape == (3, 4) and phrases.boxes.isnan().all()
    none = phrases_of([(), ()])
    assert [tuple(part.shape) for part in none] == [(0,), (0, 2), (0, 4)] and none.owner.dtype == torch.int64


@given(st.lists(st.integers(-3, 3), max_size=12), st.booleans())
def test_each_id_is_found_where_it_occurs_first(values: list[int], pairs: bool) -> None:
    ids = torch.tensor([[value, abs(value)] for value in values] if pairs and values else values, dtype=torch.long)
    unique, inverse, first = first_of_each(ids)
    assert torch.equal(unique[inverse], ids) and torch.equal(ids[first], unique)
    names = [value[0] if isinstance(value, list) else value for value in unique.tolist()]
    assert names == sorted(set(values)) and first.tolist() == [values.index(name) for name in names]


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text(st.characters(max_codepoint=127), max_size=40))
@example("AT&amp;T  A  \\u00e9 &#65; `quoted' -- 'so'")
@example("  A caf\u00c3\u00a9 &amp;amp; \ufb01sh\u00a0\n &lt;b&gt; \u0130 ")
def test_captions_are_cleaned_as_open_clip_cleans_them(text: str) -> None:
    assert clean(text) == get_clean_fn("lower")(text)


def test_models_and_losses_are_imported_without_what_takes_seconds() -> None:
    absent = ["open_clip", "lightning", "wandb", "torchvision"]
    code = "import sys, contextcir.encoders, contextcir.fusion, contextcir.losses; "
    code += f"print([name for name in {absent} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
