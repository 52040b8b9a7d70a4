"""What every concept loss should do; what the published one does not is listed with its reason, and really fails."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from contextcir.losses.maps import ConceptMaps
from tests.helpers.concept_cases import LOSSES, TEXT, equal_maps, gradient, maps, value

OWNER = [0, 2, 2, 1]
FAILURES = {
    ("published", "longer captions"): "it compares attention that is shared among as many tokens as there are: in a "
    "longer caption a phrase gets less of it, and the loss is that difference",
    ("published", "a constant for the map alone"): "alone, with few tokens to share among, a phrase nearly always gets "
    "more: the gradient of |a - b| for a is a sign, and that is the same for any constant as large",
}


def each(name: str) -> Callable:
    """Run a test with every loss; of those that are listed it asserts that they fail."""

    def wrap(test: Callable[[object], None]) -> Callable:
        def run(loss: str) -> None:
            if (loss, name) in FAILURES:
                with pytest.raises(AssertionError):
                    test(LOSSES[loss])
            else:
                test(LOSSES[loss])

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize("loss", LOSSES)(run)

    return wrap


@each("equal maps")
def test_equal_maps_cost_nothing_and_have_no_gradient(loss):
    given = equal_maps(OWNER)
    found = value(loss, given)
    assert abs(found.item()) < 1e-12
    assert gradient(found, given).abs().max() < 1e-8
    assert value(loss, maps(OWNER)) > 1e-5


@each("padding")
def test_padding_changes_nothing(loss):
    given = maps(OWNER)
    padded = given._replace(
        context=tuple(functional.pad(layer, (0, 3)) for layer in given.context),
        isolated=tuple(functional.pad(layer, (0, 2)) for layer in given.isolated),
        context_tokens=functional.pad(given.context_tokens, (0, 3)),
        isolated_tokens=functional.pad(given.isolated_tokens, (0, 2)),
    )
    torch.testing.assert_close(value(loss, padded), value(loss, given), rtol=1e-12, atol=0)


def longer(given: ConceptMaps) -> ConceptMaps:
    """The same captions, followed by words that take 70 % of the attention of every patch."""
    context = tuple(functional.pad(0.3 * layer, (0, 2), value=0.35) for layer in given.context)
    return given._replace(context=context, context_tokens=functional.pad(given.context_tokens, (0, 2)))


@each("longer captions")
def test_the_length_of_captions_changes_nothing(loss):
    for given in (equal_maps(OWNER), maps(OWNER)):
        torch.testing.assert_close(value(loss, longer(given)), value(loss, given), rtol=1e-6, atol=1e-9)


@each("gradient")
def test_the_gradient_is_that_of_finite_differences(loss):
    given = maps(OWNER)
    given.context_tokens[1] = False
    assert torch.autograd.gradcheck(lambda *layers: value(loss, given._replace(context=layers)), given.context)


@each("cut captions")
def test_phrases_that_were_cut_away_are_left_out(loss):
    given, fewer = maps(OWNER), maps(OWNER[:3])
    given.context_tokens[3] = False
    torch.testing.assert_close(value(loss, given), value(loss, fewer), rtol=1e-12, atol=0)
    given.context_tokens[:] = False
    found = value(loss, given)
    assert found.item() == 0.0 and (gradient(found, given) == 0).all()


@each("a constant for the map alone")
def test_the_gradient_depends_on_where_a_phrase_looks_alone(loss):
    """With captions of more tokens than the phrases alone, as they are."""
    given = longer(longer(maps(OWNER)))
    found = gradient(value(loss, given), given)
    given = given._replace(isolated=tuple(torch.full_like(layer, 0.25) for layer in given.isolated))
    constant = gradient(value(loss, given), given)
    assert functional.cosine_similarity(found, constant, dim=0) < 0.9


def test_what_is_listed_as_failing_is_tested():
    assert {loss for loss, _ in FAILURES} <= set(LOSSES) and TEXT > 4
