"""Measure the effect of the concept losses on a trained model: their gradients, and where each leads by itself.

python -m experiments.quality.concept_losses --checkpoint runs/scenes/ID/checkpoints/last.ckpt --json losses.json
"""

import copy
import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.nn import functional

from callbacks.concept import attention_figures
from contextcir.batch import TripletBatch
from contextcir.checks import positive, whole
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.grounding import PointingGame
from contextcir.files import write_json
from contextcir.losses.grounded import GroundedConsistency
from contextcir.losses.maps import ConceptReading, phrase_attention, phrase_maps
from contextcir.losses.text_cc import ConceptLoss, SpatialConsistency, TextConceptConsistency
from contextcir.training.module import ContextCIR
from data_modules import GroupedByReference, Scenes
from experiments.command import command, processor
from experiments.outputs import output_file

LOSSES = {"published": TextConceptConsistency, "spatial": SpatialConsistency, "grounded": GroundedConsistency}


@dataclass
class Pull:
    """The gradient of a loss, also relative to that of the contrastive loss.

    Args:
        influence: Cosine of the gradient with the one whose maps of isolated phrases are replaced by equal shares of
            all patches: 1 if these maps have no influence.
        influence_of_mean: The same with the mean over phrases of these maps.
        fusion_ratio: Norm of the weighted gradient divided by that of the contrastive loss, on the fusion.
        fusion_cosine: Cosine of these two gradients.
        text_ratio: As ``fusion_ratio``, on the text tower.
        text_cosine: As ``fusion_cosine``, on the text tower.
    """

    influence: float
    influence_of_mean: float
    fusion_ratio: float
    fusion_cosine: float
    text_ratio: float
    text_cosine: float


def queries_of(model: ContextCIR, batch: TripletBatch) -> tuple[QueryFeatures, ConceptReading]:
    """Encode the queries of a batch, and read their attention for concept losses."""
    features = model.encode_query(batch.query)
    return features, ConceptReading(model.fusion, features, batch.reference_id)


def with_constant(loss: ConceptLoss, reading: ConceptReading, constant: str) -> tuple[Tensor, Tensor]:
    """Return a loss as it is, and with its maps of isolated phrases replaced by a ``constant``: equal or mean."""
    if isinstance(loss, GroundedConsistency):
        context, found = reading.in_context()
        context, places = context[found], loss.places(reading.embeddings())[found]
        same = torch.full_like(places, 1 / places.shape[1]) if constant == "equal" else places.mean(0).expand_as(places)
        return loss.consistency(context, places), loss.consistency(context, same)
    maps = reading.detached_maps()
    if not isinstance(loss, TextConceptConsistency):
        maps = maps._replace(context=reading.context_without_ends())
    mean = [layer.mean(dim=0, keepdim=True) for layer in maps.isolated]
    same = [layer.mean(dim=(2, 3), keepdim=True) if constant == "equal" else layer for layer in mean]
    constants = tuple(one.expand_as(layer) for one, layer in zip(same, maps.isolated, strict=True))
    return loss.from_maps(maps), loss.from_maps(maps._replace(isolated=constants))


def gradient(loss: Tensor, *parts: nn.Module) -> Tensor:
    """Return the gradient of a loss on the weights of some modules, flattened and concatenated."""
    weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in gradients])


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of two gradients; 0 where one is zero."""
    return functional.cosine_similarity(first.double(), second.double(), dim=0, eps=1e-300).item()


def measure_pull(model: ContextCIR, loss: ConceptLoss, batch: TripletBatch) -> Pull:
    """Measure the gradients of a batch."""
    text = model.backbone.clip.transformer
    _, reading = queries_of(model, batch)
    influences = []
    for constant in ("equal", "mean"):
        ours, theirs = with_constant(loss, reading, constant)
        influences.append(cosine(gradient(ours, model.fusion, text), gradient(theirs, model.fusion, text)))
    model.concept = loss
    losses = model.losses(batch)
    figures = []
    for part in (model.fusion, text):
        concept, contrastive = (gradient(losses[name], part) for name in ("concept", "contrastive"))
        figures += [(loss.weight * concept.norm() / contrastive.norm()).item(), cosine(concept, contrastive)]
    return Pull(*influences, *figures)


@torch.no_grad()
def length_effect(model: ContextCIR, batches: list[TripletBatch]) -> float:
    """Return R^2 between the published loss of phrases and |1/n - 1/m|, for n tokens of the phrase, m of its caption.

    Both numbers include start and end of text.
    """
    losses, lengths = [], []
    for batch in batches:
        features, reading = queries_of(model, batch)
        maps, phrases = reading.maps(), reading.phrases
        alone = phrase_maps(maps.isolated, maps.alone, maps.isolated_tokens[maps.alone])
        losses.append((phrase_attention(model.fusion, features) - alone).abs().mean(dim=1))
        tokens_alone = phrases.content.sum(dim=1)[phrases.row] + 2
        lengths.append((1 / tokens_alone - 1 / features.text.valid.sum(dim=1)[phrases.owner]).abs())
    pairs = torch.stack([torch.cat(losses), torch.cat(lengths)])
    return torch.corrcoef(pairs[:, pairs[0].isfinite()])[0, 1].square().item()


@torch.no_grad()
def state(model: ContextCIR, loss: ConceptLoss, batches: list[TripletBatch]) -> dict[str, float]:
    """Return the loss and figures of attention: means over batches, and the pointing game over all of them."""
    model.eval()
    rows = []
    game = PointingGame(sum(len(batch.target) for batch in batches), model.backbone.grid)
    for number, batch in enumerate(batches):
        features, reading = queries_of(model, batch)
        figures = attention_figures(model.fusion, features, batch.reference_id)
        rows.append({"loss": loss(reading).item()} | {name: value.item() for name, value in figures.items()})
        index = torch.arange(len(batch.target)) + number * len(batches[0].target)
        maps = phrase_attention(model.fusion, features)
        game.update(index, batch.query.phrases.owner, maps, batch.query.phrases.boxes)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return means | {"pointing_game": game.compute().get("pointing_game", torch.tensor(math.nan)).item()}


def minimise(model: ContextCIR, loss: ConceptLoss, batches: list[TripletBatch], steps: int, lr: float) -> None:
    """Train the model on nothing but a concept loss."""
    weights = [weight for weight in (*model.parameters(), *loss.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr)
    model.train()
    for batch in itertools.islice(itertools.cycle(batches), steps):
        optimizer.zero_grad()
        loss(queries_of(model, batch)[1]).backward()
        optimizer.step()


def concept_losses(
    checkpoint: Path,
    root: Path = Path("datasets/scenes"),
    batches: int = 4,
    batch_size: int = 128,
    steps: int = 60,
    lr: float = 1e-4,
    seed: int = 0,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure every concept loss on a model that was trained on scenes.

    Args:
        checkpoint: Checkpoint of the model.
        root: Folder of the scenes benchmark.
        batches: Training batches to measure and to minimise on, in turn.
        batch_size: Triplets in each.
        steps: Steps that minimise nothing but the loss.
        lr: Learning rate of these.
        seed: Seed of the order of the batches.
        threads: CPU threads.
        json: File for all figures.
    """
    for name, number in {"batches": batches, "batch_size": batch_size, "threads": threads}.items():
        whole(number, 1, name)
    whole(steps, 0, "steps")
    whole(seed, 0, "seed", 2**32 - 1)
    positive(lr, "lr")
    output_file(json, "json")
    torch.set_num_threads(threads)
    seed_everything(seed, verbose=False)
    trained = ContextCIR.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    data = Scenes(
        root, batch_size=batch_size, num_workers=0, order=GroupedByReference(seed), preprocess=trained.preprocess
    )
    given = list(itertools.islice(data.train_dataloader(), batches))
    effect = length_effect(trained, given)
    report = {"checkpoint": checkpoint.name, "seed": seed, "machine": processor()}
    report |= {"torch": torch.__version__, "length_effect_r2": effect, "losses": {}}
    print(f"R^2 of the published loss with |1/n alone - 1/n caption|: {effect:.3f}")
    for name, kind in LOSSES.items():
        model, loss = copy.deepcopy(trained), kind()
        pull = asdict(measure_pull(model, loss, given[0]))
        before = state(model, loss, given)
        minimise(model, loss, given, steps, lr)
        after = state(model, loss, given)
        report["losses"][name] = {"weight": loss.weight, "pull": pull, "before": before, "after": after}
        print(f"\n{name}, weight {loss.weight}: " + ", ".join(f"{key} {value:.4f}" for key, value in pull.items()))
        print(f"minimised alone for {steps} steps at {lr}:")
        for key, value in before.items():
            print(f"  {key:20} {value:10.4f} -> {after[key]:10.4f}")
    if json is not None:
        write_json(json, report, indent=2)


if __name__ == "__main__":
    command(concept_losses)
