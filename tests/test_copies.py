"""Copies ahead of their use, with a GPU that is a list of what was asked of it."""

from contextlib import contextmanager

import pytest
import torch

from contextcir.copies import CopyStream, rows_on

GPU = torch.device("cuda", 0)


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, and on which streams it is in use."""

    device = GPU

    def record_stream(self, stream: object) -> None:
        self.used_on = stream


class FakeStream:
    def __init__(self, name: str, log: list) -> None:
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append(f"{self.name} recorded")
        return f"event {sum(entry.endswith('recorded') for entry in self.log)}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    entries: list[str] = []
    streams = [FakeStream("computing", entries)]

    @contextmanager
    def stream(chosen: FakeStream):
        streams.append(chosen)
        yield
        streams.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("copying", entries))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    return entries


def copied(log: list[str], number: int) -> tuple[int, OnGpu]:
    log.append(f"copy {number} on {torch.cuda.current_stream(GPU).name}")
    return number, torch.full((2,), number).as_subclass(OnGpu)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_next_copy_has_begun_when_one_is_used(log: list[str], count: int) -> None:
    for number, tensor in CopyStream(GPU).ahead(range(count), lambda number: copied(log, number)):
        assert tensor.tolist() == [number] * 2 and tensor.used_on.name == "computing"
        log.append(f"use {number}")
    following = [f"copy {number} on copying" for number in range(count)]
    assert [entry for entry in log if entry.startswith("copy ")] == following
    for number in range(count):
        used = log.index(f"use {number}")
        assert log.index(f"computing waits for event {number + 1}") < used
        if number + 1 < count:
            assert log.index(following[number + 1]) < used
        if number + 2 < count:
            assert log.index(following[number + 2]) > used, "two copies at a time, no more"


def test_an_error_in_a_copy_comes_out_with_what_was_copied_before_it_unused(log: list[str]) -> None:
    def fails(number: int) -> int:
        if number:
            raise ValueError("no memory")
        return number

    with pytest.raises(ValueError, match="no memory"):
        list(CopyStream(GPU).ahead(range(2), fails))


def test_without_a_gpu_one_is_copied_after_the_other() -> None:
    done: list[int] = []
    copies = CopyStream(torch.device("cpu")).ahead(range(3), lambda number: done.append(number) or number)
    assert next(copies) == 0 and done == [0] and list(copies) == [1, 2]


def test_rows_go_through_pinned_memory_and_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pinned(torch.Tensor):
        def to(self, device: torch.device, non_blocking: bool = False) -> tuple:
            return device, non_blocking, self.as_subclass(torch.Tensor).clone()

    def empty(shape: tuple, dtype: torch.dtype, pin_memory: bool, empty=torch.empty) -> Pinned:
        assert pin_memory
        return empty(shape, dtype=dtype).as_subclass(Pinned)

    images, rows = torch.arange(24, dtype=torch.uint8).view(4, 2, 3), torch.tensor([2, 0, 2])
    assert torch.equal(rows_on(torch.device("cpu"), images, rows), images[rows])
    monkeypatch.setattr(torch, "empty", empty)
    device, non_blocking, found = rows_on(GPU, images, rows)
    assert device == GPU and non_blocking and torch.equal(found, images[[2, 0, 2]])
