"""Weights in shards, by torch's FSDP2: each GPU keeps a part of weights, gradients and AdamW's state.

A block's weights are gathered right before it computes, and its gradients reduced right after. With a mesh of one
dimension they are in shards over all ranks (FULL_SHARD); with two, in shards over the second, such as the GPUs of a
node, and in copies over the first (HYBRID_SHARD).
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from contextcir.fusion.blocks import FusionBlock
from contextcir.losses.gathering import world_size
from contextcir.training.gradient_cache import Chunk, GradientCache, Passes, Results
from contextcir.training.module import ContextCIR

# All that computes with weights but is no `forward`: the weights have to be gathered for it as well.
OF_BLOCKS = ("without_maps", "forward_folded", "maps_folded")
OF_MODEL = ("encode_query", "encode_gallery", "embed_query", "embed_image", "attention_maps")


def shard(model: ContextCIR, mesh: DeviceMesh, **options: Any) -> ContextCIR:
    """Put the weights of a model into shards, in place, and return it; before its optimizer is made.

    Each block of the towers and of the fusion is gathered by itself, all other weights together. Scalars, which can't
    be divided, are kept by all ranks. ``options``: of ``fully_shard``, such as ``mp_policy``.
    """
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh, **options)
    for block in model.fusion.modules():
        if isinstance(block, FusionBlock):
            fully_shard(block, mesh=mesh, **options)
            for name in OF_BLOCKS:
                register_fsdp_forward_method(block, name)
    scalars = {parameter for parameter in model.parameters() if not parameter.ndim}
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(average)
    fully_shard(model, mesh=mesh, ignored_params=scalars, **options)
    of_one_backward = "encode_chunk" if isinstance(model.encoding, ShardedGradientCache) else "losses"
    for name in (*OF_MODEL, of_one_backward):
        register_fsdp_forward_method(model, name)
    return model


def average(scalar: Tensor) -> None:
    """Average the gradient of a parameter over the ranks, as that of weights in shards is."""
    gradient = cast(Tensor, scalar.grad)
    dist.all_reduce(gradient)  # what was averaged before is equal on all ranks, and stays as it is
    gradient /= world_size()


class ShardedGradientCache(GradientCache):
    """`GradientCache` for a model whose weights are in shards (`shard`).

    Weights that are gathered for a block are gone after it, so that gradients can't be asked for by weight and given
    back to autograd: each chunk has a backward pass of its own within that of the loss, and FSDP2 adds up what it
    leaves. Gradients are reduced once, with the last chunk, while that computes. Until then each rank holds the
    gradients of all weights. Every rank has to have as many chunks as all others, for which equal batches are enough.

    Args:
        chunk: Number of triplets that are encoded at a time, at most, with up to twice as many images.

    Raises:
        InputError: if the chunk is empty.
    """

    def results(self, passes: Passes) -> Results:
        """Return the results of all chunks, as one node of autograd's graph, which gives no gradients back."""
        passes = _Gathering(passes.model, passes.concept, passes.batch, passes.distinct, passes.chunks)
        return Results(*_InPasses.apply(passes, torch.zeros((), requires_grad=True)))


class _Gathering(Passes):
    """The chunks of a batch, each of which is a pass of the model for FSDP2."""

    def _encode(self, chunk: Chunk, images: Tensor) -> Results:
        return cast(ContextCIR, self.model).encode_chunk(super()._encode, chunk, images)


class _InPasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, anchor: Tensor) -> tuple[Tensor, ...]:
        ctx.passes = passes
        return tuple(passes.first())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        passes: Passes = ctx.passes
        model = cast(FSDPModule, passes.model)
        left = len(passes.chunks)
        try:
            for results, given in passes.encoded_again(Results(*gradients)):
                left -= 1
                model.set_requires_gradient_sync(left == 0)
                torch.autograd.backward(results, given)
        finally:
            model.set_requires_gradient_sync(True)
        return None, None
