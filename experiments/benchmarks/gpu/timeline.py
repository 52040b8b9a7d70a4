"""Where the time of a training step goes: marks on its timeline, forward and backward.

A mark is an event on the GPU's stream (on a CPU, the clock), so that nothing is waited for until the step is done. In
backward, autograd goes through the step in reverse: gradients of the losses are done when that of the composed query is
there, those of the fusion when that of the tower that was called last is there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.training.module import ContextCIR

PARTS = ("copies", "towers", "fusion", "loss", "optimizer")


class Timeline:
    """Marks of one step, in the order of time: what has just ended, and when.

    Args:
        device: that the step runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._ended: set[str] = set()  # in backward

    def mark(self, ended: str) -> None:
        """Note that a part has ended."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((ended, event))
        else:
            self._marks.append((ended, time.perf_counter()))

    def mark_backward(self, ended: str) -> None:
        """Note that the gradients of a part are done: of several that reach the towers, the first ends the fusion."""
        self.mark("towers" if ended in self._ended else ended)
        self._ended.add(ended)

    def shares(self) -> dict[str, float]:
        """Return the share of each of `PARTS` in the time from the first to the last mark; waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        spent = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            spent[part] += before.elapsed_time(after) if self._on_gpu else after - before
        total = sum(spent.values()) or 1.0
        return {part: value / total for part, value in spent.items()}

    @contextmanager
    def listening(self, model: ContextCIR) -> Iterator[None]:
        """Mark, within the block, the ends of towers and fusion, forward and backward."""
        backbone = model.backbone
        image, text = backbone.encode_image, backbone.encode_text

        def encode_image(images: Tensor) -> ImageFeatures:
            features = image(images)
            self.mark("towers")
            return ImageFeatures(*(_Mark.apply(part, self, "fusion") for part in features))

        def encode_text(*given: Any) -> TextFeatures:
            features = text(*given)
            self.mark("towers" if torch.is_grad_enabled() else "loss")  # phrases alone are a part of the loss
            tokens, embedding = (_Mark.apply(part, self, "fusion") for part in (features.tokens, features.embedding))
            return features._replace(tokens=tokens, embedding=embedding)

        def fused(*given: Any) -> Fused:
            features = given[-1]
            self.mark("fusion")
            features.embedding = _Mark.apply(features.embedding, self, "loss")
            return features

        handle = model.fusion.register_forward_hook(fused)
        backbone.encode_image, backbone.encode_text = encode_image, encode_text  # type: ignore[method-assign]
        try:
            yield
        finally:
            handle.remove()
            del backbone.encode_image, backbone.encode_text


class _Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, timeline: Timeline, ended: str) -> Tensor:
        ctx.timeline, ctx.ended = timeline, ended
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.timeline.mark_backward(ctx.ended)
        return gradient, None, None


def shares_of(device: torch.device, model: ContextCIR, step: Callable[[Timeline], None]) -> dict[str, float]:
    """Return the shares of a step that marks its copies, losses, backward pass and optimizer itself."""
    timeline = Timeline(device)
    with timeline.listening(model):
        step(timeline)
    return timeline.shares()
