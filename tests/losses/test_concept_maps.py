"""What a concept loss is given to read: maps whose ends of text have no gradient, and nothing that nobody asked for."""

import torch

from contextcir.losses.maps import ends_of, without_gradient_to_ends


def test_ends_are_the_first_and_the_last_of_the_valid_tokens() -> None:
    valid = torch.arange(5) < torch.tensor([[5], [3], [2]])
    assert ends_of(valid).int().tolist() == [[1, 0, 0, 0, 1], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]


def test_among_words_the_values_are_the_same_but_the_ends_have_no_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 4, 6, dtype=torch.double, requires_grad=True)
    valid = torch.arange(6) < torch.tensor([[6], [4], [2]])  # the last caption has no words
    attention = logits.masked_fill(~valid[:, None, None], float("-inf")).softmax(dim=-1)
    (found,) = without_gradient_to_ends((attention,), ends_of(valid))
    words = valid & ~ends_of(valid)
    torch.testing.assert_close(found.movedim(-1, 1)[words], attention.movedim(-1, 1)[words])
    weights = torch.randn(3, 2, 4, 6, dtype=torch.double) * words[:, None, None]
    (found * weights).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad.movedim(-1, 1)[ends_of(valid)].abs() < 1e-12).all()
    assert (logits.grad.movedim(-1, 1)[words].abs() > 1e-6).all()
