"""One training in several processes, which torchrun starts: the first one runs, the others join in whenever it trains.

A step's examples are dealt out. Each process divides its loss by what the whole step has, so the gradients' sum is the
gradient of a single process, within rounding, however unevenly the examples came out. It is added up here, once per
step, in large pieces. `DistributedDataParallel` would wrap the network, whose attributes training needs, take means
where sums are meant, and expect as many backward passes of each process, which a step in parts does not make; what it
is good for, sending gradients while others are still computed, is little beside a step of many parts. With
`finetune.shard = "full"` weights, gradients and the optimiser's state are spread over the processes (FSDP2's
`fully_shard`), which then go through the network in step.

A process that is gone takes the others with it: torchrun ends them, and so does the connection that breaks.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from puzzles.puzzle import InputError

TRAINING_TIMEOUT = timedelta(minutes=30)
"""For a process to come to where the others are in a training."""
WAITING_TIMEOUT = timedelta(days=30)
"""For the next training to begin: sampling may take days. A broken connection is noticed at once."""
PIECE_NUMBERS = 16 * 1024**2
"""Of gradients that are added up together."""
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset)|Broken pipe")
"""What torch says where another process does not answer any more."""
T = TypeVar("T")
_waiting: Any = None
"""The group in which trainings are told; its patience is longer."""


def size() -> int:
    """How many processes train together."""
    return int(dist.get_world_size()) if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, leads."""
    return int(dist.get_rank()) if dist.is_initialized() else 0


def local_size() -> int:
    """How many of them share this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if size() > 1 else 1


@contextlib.contextmanager
def joined() -> Iterator[bool]:
    """Be one of the processes that torchrun has started; yields whether this one leads.

    What is raised inside ends this process, and so the others: nothing is told to them.

    Raises:
        InputError: There are not as many as torchrun was asked for.
    """
    global _waiting
    asked, place = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available() and place < torch.cuda.device_count():
        torch.cuda.set_device(place)
    with told_if_lost():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TRAINING_TIMEOUT)
        _waiting = dist.new_group(backend="gloo", timeout=WAITING_TIMEOUT)
        if (present := round(total([1.0])[0])) != asked:
            raise InputError(f"torchrun: expected {asked} processes, found {present}")
    yield rank() == 0
    if rank() == 0:
        tell(None)
    dist.destroy_process_group()
    _waiting = None


def tell(order: Any) -> None:
    """Hand the others what to train, if there are any; None: there is nothing more."""
    if size() > 1:
        with told_if_lost():
            dist.broadcast_object_list([order], 0, group=_waiting)


def orders() -> Iterator[Any]:
    """What the first process tells, until it has nothing more."""
    while True:
        heard = [None]
        with told_if_lost():
            dist.broadcast_object_list(heard, 0, group=_waiting)
        if heard[0] is None:
            return
        yield heard[0]


@contextlib.contextmanager
def told_if_lost() -> Iterator[None]:
    """Within it another process's end is this one's.

    Raises:
        ConnectionError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if size() == 1 or not LOST.search(str(error)):
            raise
        raise ConnectionError(
            f"process {rank()} of {size()}: another of torchrun's processes is gone, whose own message says why"
        ) from None


def require_device(name: str) -> None:
    """See that each process of this machine has a GPU of its own, if they are to train on GPUs.

    Raises:
        InputError: They are not as many, or all would take the same.
    """
    if size() == 1 or not name.startswith(("auto", "cuda")) or not torch.cuda.is_available():
        return
    if ":" in name:
        raise InputError(
            f"model.device: expected 'cuda' under torchrun, as each process has one of its own, got {name}"
        )
    if local_size() > (there := torch.cuda.device_count()):
        raise InputError(f"torchrun --nproc-per-node: expected at most {there}, the GPUs here, got {local_size()}")


def agree(what: str, found: str) -> None:
    """See that all have the same.

    Raises:
        InputError: They do not.
    """
    if size() > 1:
        everyone: list[Any] = [None] * size()
        dist.all_gather_object(everyone, found, group=_waiting)
        if different := [number for number, one in enumerate(everyone) if one != everyone[0]]:
            raise InputError(
                f"{what} is not the same in processes 0 and {different[0]}: "
                "expected one folder that all machines see, at the same path"
            )


def dealt(batch: Sequence[T], unit: int) -> tuple[list[T], bool]:
    """This process's share of a step, in units of so many that stay together, and whether it counts.

    Where there are fewer units than processes, some go through the first one for nothing, to be in step.
    """
    units = [batch[start : start + unit] for start in range(0, len(batch), unit)]
    own = units[rank() :: size()]
    return [one for part in own or units[:1] for one in part], bool(own)


def even(items: Sequence[T], network: Any) -> list[tuple[T, bool]]:
    """Items, at least one, each with whether it counts: a sharded network needs as many passes of each process."""
    longest = len(items)
    if is_sharded(network):
        longest_1 = torch.tensor([longest])
        dist.all_reduce(longest_1, dist.ReduceOp.MAX)
        longest = int(longest_1)
    return [*((item, True) for item in items), *[(items[0], False)] * (longest - len(items))]


def total(numbers: Sequence[float]) -> list[float]:
    """Each number's sum over the processes."""
    if size() == 1:
        return list(numbers)
    sums_N = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums_N)
    return [float(value) for value in sums_N]


def added(network: Any, means: Mapping[str, Any]) -> dict[str, float]:
    """A step's means over all processes; its gradients, if all have all weights, are added up in place."""
    if size() > 1 and not is_sharded(network):
        piece: list[torch.Tensor] = []
        for parameter in network.parameters():
            if parameter.grad is None:
                continue
            if sum(map(torch.Tensor.numel, piece)) + parameter.numel() > PIECE_NUMBERS:
                _add_up(piece)
                piece = []
            piece.append(parameter.grad)
        _add_up(piece)
    return dict(zip(means, total([float(mean) for mean in means.values()]), strict=True))


def _add_up(piece: Sequence[torch.Tensor]) -> None:
    if piece:
        flat_N = torch.cat([gradient.flatten() for gradient in piece])
        dist.all_reduce(flat_N)
        for gradient, sums in zip(piece, flat_N.split([gradient.numel() for gradient in piece]), strict=True):
            gradient.copy_(sums.view_as(gradient))


def is_sharded(network: Any) -> bool:
    """Whether each process has a part of its weights only."""
    return isinstance(network, FSDPModule)


def shard(network: Any, device: str) -> None:
    """Spread a network's weights over the processes, layer by layer; gradients are then sums, each where its weight is.

    Args:
        network: The same in all processes, on the CPU.
        device: `cpu` or `cuda`, where it goes.
    """
    mesh = init_device_mesh(device, (size(),))
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*layers, network):
        fully_shard(module, mesh=mesh)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # not all backends can divide


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """With all its parts; all processes ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(network: Any, into: Any | None) -> None:
    """A sharded network's weights into one that is like it, weight by weight; None where they are not wanted."""
    for name, weight in network.named_parameters():
        complete = whole(weight.detach())
        if into is not None:
            into.get_parameter(name).data.copy_(complete)
