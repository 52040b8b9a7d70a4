"""Runs a function on several gloo ranks of this machine, forked: the parent must not have used more than one thread."""

import queue
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 60.0  # seconds


def run_ranks(fn: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Calls ``fn(rank, *args)`` in `world` processes of one process group; returns their results by rank.

    Results travel by pickle: return plain Python values or tensors. An exception in a rank, or more than a minute of
    silence, fails the caller.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("fork").SimpleQueue()
    context = mp.start_processes(_rank, (world, port, results, fn, args), nprocs=world, join=False, start_method="fork")
    by_rank: dict[int, Any] = {}
    try:
        for _ in range(int(TIMEOUT / 0.05)):
            finished = context.join(timeout=0.05)  # raises what a rank raised
            while not results.empty():
                rank, value = results.get()
                by_rank[rank] = value
            if finished:
                break
        else:
            raise TimeoutError(f"ranks {sorted(set(range(world)) - set(by_rank))} of {fn.__name__} gave no result")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
    if len(by_rank) < world:
        raise queue.Empty(f"only ranks {sorted(by_rank)} of {world} returned a result")
    return [_tensors(by_rank[rank]) for rank in range(world)]


def _rank(rank: int, world: int, port: int, results: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        results.put((rank, _arrays(fn(rank, *args))))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _arrays(value: Any) -> Any:
    """Tensors as arrays, which pickle by value: a tensor would be shared with a process that is about to end."""
    if isinstance(value, torch.Tensor):
        return _Array(value.detach().cpu().numpy())
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_arrays(item) for item in value]
    return value


def _tensors(value: Any) -> Any:
    if isinstance(value, _Array):
        return torch.from_numpy(value.content)
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    return value


class _Array:
    def __init__(self, content: Any) -> None:
        self.content = content
