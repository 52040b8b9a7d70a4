import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from contextcir.concept import TextConceptConsistency
from contextcir.concept_maps import ConceptMaps, phrase_maps
from tests.distributed import run_ranks

LAYERS, HEADS, VISION, TEXT, ALONE = 2, 3, 5, 7, 4


def maps(owner: list[int], batch: int = 3) -> ConceptMaps:
    """Attention of `batch` captions and of phrases with these owners; the same phrase numbers give the same values."""
    generator = torch.Generator().manual_seed(0)

    def attention(rows: int, tokens: int) -> tuple[torch.Tensor, ...]:
        shape = (rows, HEADS, VISION, tokens)
        layers = (torch.rand(shape, generator=generator, dtype=torch.double) for _ in range(LAYERS))
        return tuple((layer / layer.sum(-1, keepdim=True)).requires_grad_() for layer in layers)

    context, isolated = attention(batch, TEXT), attention(6, ALONE)
    context_tokens = torch.rand(6, TEXT, generator=generator) < 0.5
    context_tokens[:, 2] = True
    isolated_tokens = torch.rand(6, ALONE, generator=generator) < 0.5
    isolated_tokens[:, 1] = True
    count = len(owner)
    return ConceptMaps(
        context,
        tuple(layer[:count].detach().requires_grad_() for layer in isolated),
        torch.tensor(owner, dtype=torch.long),
        torch.arange(count),
        context_tokens[:count],
        isolated_tokens[:count],
    )


def naive_loss(given: ConceptMaps, epsilon: float) -> float:
    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    def attended(layers, row, tokens, patch):
        return mean(
            layer[row, head, patch, token].item()
            for layer in layers
            for head in range(HEADS)
            for token in range(len(tokens))
            if tokens[token]
        )

    phrases = []
    for p in range(len(given.owner)):
        if not any(given.context_tokens[p]):
            continue
        excess = []
        for patch in range(1, VISION):
            context = attended(given.context, given.owner[p], given.context_tokens[p], patch)
            alone = attended(given.isolated, p, given.isolated_tokens[p], patch)
            excess.append(max(0.0, abs(context - alone) - epsilon))
        phrases.append(mean(excess))
    return mean(phrases)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.1])
def test_it_equals_loops_over_phrases_patches_and_tokens(epsilon):
    given = maps([0, 2, 2, 1])
    found = TextConceptConsistency(epsilon=epsilon).of(given)
    assert found > 0
    torch.testing.assert_close(found.item(), naive_loss(given, epsilon))


def test_phrases_without_a_token_in_their_caption_are_left_out():
    given = maps([0, 2, 2, 1])
    given.context_tokens[1] = False
    torch.testing.assert_close(TextConceptConsistency().of(given).item(), naive_loss(given, 0.0))
    assert naive_loss(given, 0.0) != naive_loss(maps([0, 2, 2, 1]), 0.0)


@pytest.mark.parametrize("alone", ["empty maps", "no maps"])
def test_without_phrases_it_is_zero_and_can_be_differentiated(alone):
    given = maps([])
    loss = TextConceptConsistency().of(given if alone == "empty maps" else given._replace(isolated=()))
    assert loss.item() == 0.0
    loss.backward()
    assert all((layer.grad == 0).all() for layer in given.context)


def test_without_any_phrase_found_it_is_zero():
    given = maps([0, 1])
    given.context_tokens[:] = False
    loss = TextConceptConsistency().of(given)
    loss.backward()
    assert loss.item() == 0.0 and all((layer.grad == 0).all() for layer in given.context)


def test_only_the_context_side_gets_a_gradient_and_only_for_patches():
    given = maps([0, 2])
    TextConceptConsistency().of(given).backward()
    assert all(layer.grad is None for layer in given.isolated)
    for layer in given.context:
        assert (
            (layer.grad[[0, 2], :, 1:] != 0).any() and (layer.grad[:, :, 0] == 0).all() and (layer.grad[1] == 0).all()
        )


def test_equal_attention_costs_nothing():
    given = maps([0, 1])
    same = tuple(layer[:2] for layer in given.context)
    given = given._replace(isolated=same, isolated_tokens=given.context_tokens)
    assert TextConceptConsistency().of(given).item() == 0.0


def test_rounding_errors_between_equal_maps_have_no_gradient():
    given = maps([0, 1])
    nearly = tuple(layer[:2].detach() + 1e-8 * torch.randn(2, HEADS, VISION, TEXT) for layer in given.context)
    given = given._replace(isolated=nearly, isolated_tokens=given.context_tokens)
    loss = TextConceptConsistency().of(given)
    loss.backward()
    assert loss.item() == 0.0 and all((layer.grad == 0).all() for layer in given.context)


def test_the_weight_is_left_to_the_caller():
    given = maps([0, 1])
    assert TextConceptConsistency(weight=0.08).weight == 0.08
    assert torch.equal(TextConceptConsistency(weight=0.08).of(given), TextConceptConsistency(weight=3.0).of(given))


def test_a_phrase_map_is_a_mean_over_its_tokens():
    layer = torch.zeros(1, 1, 3, 4)
    layer[0, 0, 1] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    found = phrase_maps((layer,), torch.tensor([0]), torch.tensor([[False, True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0]]))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, HEADS, dtype=torch.double)[:, None, None])
        self.loss = TextConceptConsistency(epsilon=0.01)

    def forward(self, given: ConceptMaps) -> torch.Tensor:
        return self.loss.of(given._replace(context=tuple(layer.detach() * self.scale for layer in given.context)))


def part(given: ConceptMaps, captions: slice, phrases: slice) -> ConceptMaps:
    return ConceptMaps(
        tuple(layer[captions] for layer in given.context),
        tuple(layer[phrases] for layer in given.isolated),
        given.owner[phrases] - captions.start,
        given.alone[phrases] - phrases.start,
        given.context_tokens[phrases],
        given.isolated_tokens[phrases],
    )


OWNERS = {"even": [0, 0, 1, 2, 2, 2], "first rank has one": [0, 2, 2, 2], "second rank has none": [0, 0, 1]}


def train_step(rank: int, owners: list[int], captions: int) -> list:
    local = [p for p, owner in enumerate(owners) if (owner < captions) == (rank == 0)]
    phrases = slice(local[0], local[-1] + 1) if local else slice(len(owners), len(owners))
    rows = slice(0, captions) if rank == 0 else slice(captions, 3)
    model = DistributedDataParallel(Model())
    loss = model(part(maps(owners), rows, phrases))
    loss.backward()
    return [loss, model.module.scale.grad]


@pytest.mark.parametrize("case", OWNERS)
def test_loss_and_gradient_of_two_ranks_equal_those_of_the_joint_batch(case):
    ranks = run_ranks(train_step, 2, OWNERS[case], 2)
    model = Model()
    loss = model(maps(OWNERS[case]))
    loss.backward()
    torch.testing.assert_close((sum(rank[0] for rank in ranks) / 2).item(), loss.item(), rtol=1e-12, atol=0)
    for _, gradient in ranks:
        torch.testing.assert_close(gradient, model.scale.grad, rtol=1e-10, atol=1e-14)
