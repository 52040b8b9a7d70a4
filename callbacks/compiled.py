"""torch.compile for the towers, as part of a run and not of the model: checkpoints do not depend on it."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.checks import one_of
from contextcir.encoders.padding import FewSizes


class CompileTowers(Callback):
    """Compile the transformer blocks of both towers for training.

    Block by block and in place: their code is compiled once and not once per block, and no weight changes its name.
    Captions and phrases are padded to a few sizes (`contextcir.encoders.padding`), for code is compiled anew for a size
    that it has not met. The first steps take longer.

    Args:
        backend: of torch.compile; inductor needs a C++ compiler on a CPU, and Triton on a GPU.

    Raises:
        InputError: for an unknown backend.
    """

    def __init__(self, backend: str = "inductor") -> None:
        if backend not in torch.compiler.list_backends(exclude_tags=()):  # which also has those for debugging
            one_of(backend, torch.compiler.list_backends(), "trainer.callbacks.CompileTowers.backend")
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the blocks; they are compiled on their first call."""
        if stage == "fit":
            pl_module.backbone.sizes = FewSizes(pl_module.backbone.tokenizer.context_length)
            for block in pl_module.backbone.blocks:
                block.compile(backend=self.backend)
