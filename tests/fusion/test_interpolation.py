"""Points between image and text, against formulas written anew; and the Combiner against the published equations."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import ImageFeatures, TextFeatures
from contextcir.fusion import Combiner, RawCombiner, Slerp, Sum, WeightedSum
from contextcir.fusion.interpolation import Interpolation

WIDTHS = Widths(4, 4, 6)


def features(image: Tensor, text: Tensor) -> tuple[ImageFeatures, TextFeatures]:
    rows = len(image)
    tokens = torch.zeros(rows, 2, 4, dtype=image.dtype)
    return ImageFeatures(tokens, image), TextFeatures(tokens, torch.ones(rows, 2, dtype=torch.bool), text)


def pairs(rows: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(7 * torch.randn(rows, 6, generator=generator, dtype=torch.float64) for _ in range(2))


def query(fusion: Interpolation, image: Tensor, text: Tensor) -> Tensor:
    return fusion.double()(*features(image, text)).embedding


def sine_rule(image: Tensor, text: Tensor, weight: float) -> list[float]:
    """The interpolation of two vectors, number by number."""
    a, b = ([x / math.hypot(*side) for x in side] for side in (image.tolist(), text.tolist()))
    angle = math.acos(sum(x * y for x, y in zip(a, b, strict=True)))
    first, second = (math.sin(part * angle) / math.sin(angle) for part in (1 - weight, weight))
    return [first * x + second * y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_slerp_is_the_sine_rule(weight: float) -> None:
    image, text = pairs()
    found = query(Slerp(WIDTHS, weight), image, text)
    expected = [sine_rule(a, b, weight) for a, b in zip(image, text, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_slerp_divides_the_angle_in_proportion(weight: float, seed: int) -> None:
    image, text = pairs(1, seed)
    point = Slerp(WIDTHS).mix(image, text, weight)
    whole, first = (torch.acos(functional.cosine_similarity(image, other).clamp(-1, 1)) for other in (text, point))
    torch.testing.assert_close(point.norm(dim=-1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(first, weight * whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_of_parallel_vectors_is_finite_and_so_are_its_gradients(sign: int) -> None:
    image, _ = pairs()
    image, text = image.float().requires_grad_(), (sign * 3 * image).float().requires_grad_()
    point = Slerp(WIDTHS).mix(image, text, 0.25)
    torch.testing.assert_close(point, (1 - 0.25 + sign * 0.25) * functional.normalize(image), atol=1e-5, rtol=1e-5)
    point.square().sum().backward()
    assert image.grad.isfinite().all() and text.grad.isfinite().all()


@pytest.mark.parametrize("kind", [WeightedSum, Slerp])
def test_the_middle_ranks_as_the_sum_and_the_ends_are_image_and_text(kind: type[Interpolation]) -> None:
    image, text = pairs()
    middle, total = query(kind(WIDTHS, 0.5), image, text), Sum(WIDTHS)(*features(image, text)).embedding
    torch.testing.assert_close(functional.normalize(middle), functional.normalize(total))
    torch.testing.assert_close(query(kind(WIDTHS, 0), image, text), functional.normalize(image))
    torch.testing.assert_close(query(kind(WIDTHS, 1), image, text), functional.normalize(text))


def test_the_weighted_sum_weighs_unit_vectors() -> None:
    image, text = pairs()
    expected = 0.2 * image / image.norm(dim=1, keepdim=True) + 0.8 * text / text.norm(dim=1, keepdim=True)
    torch.testing.assert_close(query(WeightedSum(WIDTHS, 0.8), image, text), expected, rtol=1e-6, atol=1e-6)


def test_the_weight_is_part_of_the_checkpoint() -> None:
    other = Slerp(WIDTHS)
    other.load_state_dict(WeightedSum(WIDTHS, 0.8).state_dict())
    assert float(other.weight) == pytest.approx(0.8)


def published(state: dict[str, Tensor], image: Tensor, text: Tensor) -> Tensor:
    """CLIP4Cir's equations, without dropout: (W x + b)+ of each side, then two heads over both, text first or not."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    both = torch.cat([linear("image.0", image).clamp(min=0), linear("text.0", text).clamp(min=0)], dim=1)
    combined = linear("combined.1", linear("combined.0.0", both).clamp(min=0))
    share = 1 / (1 + (-linear("share.1", linear("share.0.0", both).clamp(min=0))).exp())
    return combined + share * text + (1 - share) * image


@pytest.mark.parametrize("kind", [Combiner, RawCombiner])
def test_the_combiner_follows_the_published_equations(kind: type[Combiner]) -> None:
    torch.manual_seed(0)
    fusion = kind(WIDTHS, width=10).double().eval()
    image, text = pairs()
    sides = (image, text) if kind is RawCombiner else (functional.normalize(image), functional.normalize(text))
    torch.testing.assert_close(fusion(*features(image, text)).embedding, published(fusion.state_dict(), *sides))


def test_the_combiner_drops_half_of_all_four_hidden_layers() -> None:
    rates = [module.p for module in Combiner(WIDTHS).modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.5] * 4
