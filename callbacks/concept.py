"""The concept loss during training: its gradient, the phrases it acts on, and the attention of the fusion."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from contextcir.batch import TripletBatch
from contextcir.checks import whole
from contextcir.devices import to_device
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts, QueryFeatures
from contextcir.fusion import Fusion
from contextcir.losses.gathering import world_size
from contextcir.losses.maps import ConceptReading, keys_in_context, peakedness, shares
from contextcir.training.encoding import WholeBatch

SCALE = 1024.0  # of losses while they are differentiated: in float16, small gradients would become 0


class ConceptMonitor(Callback):
    """Log how the concept loss and the attention of phrases develop, without any influence on training.

    - ``train_concept_gradient``: norm of the weighted concept loss's gradient on the fusion over that of the
      contrastive loss's.
    - ``train_phrases_aligned``: share of the phrases that have tokens in their caption and alone.
    - ``train_map_entropy``: entropy of phrases' maps over the patches, over its maximum: 1 for uniform maps.
    - ``train_attention_start``, ``train_attention_end``, ``train_attention_phrases``: share of the patches' attention
      that goes to the start of text, to its end, and to a phrase; means over captions, and over phrases.

    All are over the batches of all ranks together. Each measurement takes a second pass of the batch, and two backward
    passes through the fusion; batches that are encoded in chunks (`GradientCache`) are not measured.

    Args:
        every_n_steps: optimizer steps between two measurements, of which the first is at step 0.

    Raises:
        InputError: if ``every_n_steps`` is less than 1.
    """

    def __init__(self, every_n_steps: int = 200) -> None:
        self.every_n_steps = whole(every_n_steps, 1, "trainer.callbacks.ConceptMonitor.every_n_steps")
        self._last = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without measurements of an earlier run."""
        self._last = -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure, if it is due; all ranks take part."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self._last or not isinstance(batch, TripletBatch):
            return
        if type(pl_module.encoding) is not WholeBatch:
            rank_zero_info("no figures of the concept loss: they would need a whole batch in memory at once")
            return
        self._last = step  # with accumulated gradients, several batches belong to one step
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),  # dropout must not change the random numbers of training
            listening(pl_module.fusion) as heard,
            trainer.precision_plugin.train_step_context(),
        ):
            losses = pl_module.losses(batch)
        figures = attention_figures(pl_module.fusion, heard[0], batch.reference_id)
        trains = any(weight.requires_grad for weight in pl_module.fusion.parameters())
        if "concept" in losses and trains and losses["contrastive"].requires_grad:  # not with WithoutTriplets
            figures["concept_gradient"] = gradient_ratio(pl_module, losses)
        pl_module.log_dict({f"train_{name}": value for name, value in figures.items()}, batch_size=len(batch.target))


@contextmanager
def listening(fusion: Fusion) -> Iterator[list[QueryFeatures]]:
    """Collect what the fusion is given and returns."""
    heard: list[QueryFeatures] = []

    def collect(_: Fusion, given: tuple[ImageFeatures, TextFeatures, PhraseTexts | None], fused: Fused) -> None:
        image, text, phrases = given
        heard.append(QueryFeatures(image, text, fused, phrases))

    handle = fusion.register_forward_hook(collect)
    try:
        yield heard
    finally:
        handle.remove()


def gradient_ratio(pl_module: LightningModule, losses: dict[str, Tensor]) -> Tensor:
    """Norm of the weighted concept loss's gradient on the fusion over that of the contrastive loss's, of all ranks."""
    weights = [weight for weight in pl_module.fusion.parameters() if weight.requires_grad]
    norms = []
    for loss in (pl_module.concept.weight * losses["concept"], losses["contrastive"]):
        gradients = torch.autograd.grad(
            SCALE * loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        flat = torch.cat([gradient.float().flatten() for gradient in gradients])
        if world_size() > 1:
            dist.all_reduce(flat)
        norms.append(flat.norm())
    return norms[0] / norms[1].clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def attention_figures(fusion: Fusion, features: QueryFeatures, image_id: Tensor) -> dict[str, Tensor]:
    """Means over the captions and phrases of all ranks; {} for fusions without attention."""
    fused, phrases, valid = features.fused, features.phrases, features.text.valid
    if not fused.attention:
        return {}
    mean = torch.stack([layer[:, :, 1:].float().mean(dim=(1, 2)) for layer in fused.attention]).mean(dim=0)  # (B, K)
    end = (valid * torch.arange(1, valid.shape[1] + 1, device=valid.device)).argmax(dim=1, keepdim=True)  # (B, 1) last
    sums = {"attention_start": mean[:, 0].sum(), "attention_end": mean.gather(1, end).sum(), "captions": len(mean)}
    if phrases is not None:
        maps, found = ConceptReading(fusion, features, image_id).in_context()  # (P, V - 1), (P,)
        keys = keys_in_context(fusion, features)  # (P, K), none for a phrase that was not found
        sums["map_entropy"] = ((1 - peakedness(shares(maps.float()))) * found).sum()
        sums["attention_phrases"] = (mean[to_device(phrases.owner, mean.device)] * keys).sum()
        alone = to_device(phrases.content.any(dim=1)[phrases.row], found.device) if len(phrases) else found  # (P,)
        sums |= {"phrases_aligned": (found & alone).sum(), "found": found.sum(), "phrases": len(phrases)}
    values = torch.stack([torch.as_tensor(value, device=mean.device).float() for value in sums.values()])
    if world_size() > 1:
        dist.all_reduce(values)
    total = dict(zip(sums, values, strict=True))
    counts = {name: total.pop(name).clamp(min=1) for name in ("captions", "found", "phrases") if name in total}
    per = {"map_entropy": "found", "attention_phrases": "found", "phrases_aligned": "phrases"}
    return {name: value / counts[per.get(name, "captions")] for name, value in total.items()}
