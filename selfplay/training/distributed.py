"""One training in several processes, which torchrun starts. The first process leads the run; the others help to train.

The processes share each step's examples. Each process divides its loss by the number of terms of the whole step. So the
sum of their gradients is, within rounding, the gradient of a single process, however uneven the shares are. Gradients
are added up here, once per step, in large pieces.

`DistributedDataParallel` is not used for three reasons. It would wrap the network, whose attributes training needs. It
takes means where sums are needed. And it expects the same number of backward passes in each process, which a step in
parts does not have. Its advantage, sending some gradients while others are still computed, is small beside a step of
many parts.

With `finetune.shard = "full"` weights, gradients and the optimiser's state are spread over the processes (FSDP2's
`fully_shard`). The processes then go through the network in step.

A process that ends takes the others with it: torchrun ends them, and so does the broken connection.
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
"""How long a process waits for the others within a training."""
WAITING_TIMEOUT = timedelta(days=30)
"""How long a process waits for the next training: sampling may take days. A broken connection is noticed at once."""
PIECE_NUMBERS = 16 * 1024**2
"""Most numbers of a piece of gradients that are added up together."""
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset)|Broken pipe")
"""Parts of torch's messages when another process does not answer any more."""
T = TypeVar("T")
_waiting: Any = None
"""The process group in which trainings are announced, with the longer timeout."""


def size() -> int:
    """Number of processes that train together."""
    return int(dist.get_world_size()) if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0. Process 0 leads."""
    return int(dist.get_rank()) if dist.is_initialized() else 0


def local_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if size() > 1 else 1


@contextlib.contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that torchrun has started. Yields whether this process leads.

    An exception inside ends this process, and so the others, without a message to them.

    Raises:
        InputError: There are fewer or more processes than torchrun was told to start.
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
    """Send an order for a training to the other processes, if there are any. None means that no more will come."""
    if size() > 1:
        with told_if_lost():
            dist.broadcast_object_list([order], 0, group=_waiting)


def orders() -> Iterator[Any]:
    """The orders of the leading process, until it has no more."""
    while True:
        heard = [None]
        with told_if_lost():
            dist.broadcast_object_list(heard, 0, group=_waiting)
        if heard[0] is None:
            return
        yield heard[0]


@contextlib.contextmanager
def told_if_lost() -> Iterator[None]:
    """Report errors in the enclosed code that come from the end of another process.

    Raises:
        ConnectionError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if size() == 1 or not LOST.search(str(error)):
            raise
        raise ConnectionError(
            f"process {rank()} of {size()}: another process of torchrun has ended; its own message says why"
        ) from None


def require_device(name: str) -> None:
    """Check that each process on this machine has its own GPU, if the training uses GPUs.

    Raises:
        InputError: There are too few GPUs, or the setting names one GPU for all processes.
    """
    if size() == 1 or not name.startswith(("auto", "cuda")) or not torch.cuda.is_available():
        return
    if ":" in name:
        raise InputError(
            f"model.device: expected 'cuda' under torchrun, because each process has its own GPU, got {name!r}"
        )
    if local_size() > (there := torch.cuda.device_count()):
        raise InputError(f"torchrun --nproc-per-node: expected at most {there}, one per GPU here, got {local_size()}")


def agree(what: str, found: str) -> None:
    """Check that all processes have found the same value.

    Args:
        what: What the value is, for the error message.
        found: This process's value.

    Raises:
        InputError: The values differ.
    """
    if size() > 1:
        everyone: list[Any] = [None] * size()
        dist.all_gather_object(everyone, found, group=_waiting)
        if different := [number for number, one in enumerate(everyone) if one != everyone[0]]:
            raise InputError(
                f"{what} differs between processes 0 and {different[0]}: "
                "put it in one folder that all machines see at the same path"
            )


def dealt(batch: Sequence[T], unit: int) -> tuple[list[T], bool]:
    """This process's share of a step, and whether the share counts.

    If there are fewer units than processes, some processes repeat the first unit without counting it, to stay in step.

    Args:
        batch: All examples of the step.
        unit: Number of consecutive examples that stay together.
    """
    units = [batch[start : start + unit] for start in range(0, len(batch), unit)]
    own = units[rank() :: size()]
    return [one for part in own or units[:1] for one in part], bool(own)


def even(items: Sequence[T], network: Any) -> list[tuple[T, bool]]:
    """Items, each with whether it counts. A sharded network needs the same number of passes in each process.

    Args:
        items: This process's items, at least one. The first is repeated where others have more.
        network: The network that the items go through.
    """
    longest = len(items)
    if is_sharded(network):
        longest_1 = torch.tensor([longest])
        dist.all_reduce(longest_1, dist.ReduceOp.MAX)
        longest = int(longest_1)
    return [*((item, True) for item in items), *[(items[0], False)] * (longest - len(items))]


def total(numbers: Sequence[float]) -> list[float]:
    """The sum of each number over the processes."""
    if size() == 1:
        return list(numbers)
    sums_N = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums_N)
    return [float(value) for value in sums_N]


def added(network: Any, means: Mapping[str, Any]) -> dict[str, float]:
    """Sums of a step's partial means over all processes. Unless the network is sharded, also add up its gradients."""
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
    """Whether each process holds only a part of the weights."""
    return isinstance(network, FSDPModule)


def shard(network: Any, device: str) -> None:
    """Spread a network's weights over the processes, layer by layer. Gradients are then summed where their weights are.

    Args:
        network: A network on the CPU, the same in all processes.
        device: `cpu` or `cuda`, the place of the parts.
    """
    mesh = init_device_mesh(device, (size(),))
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*layers, network):
        fully_shard(module, mesh=mesh)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # not all backends can divide


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all its parts. All processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(network: Any, into: Any | None) -> None:
    """Copy a sharded network's weights, one by one, into a whole network of the same kind.

    All processes must call this together. A process that does not want the weights gives None.
    """
    for name, weight in network.named_parameters():
        complete = whole(weight.detach())
        if into is not None:
            into.get_parameter(name).data.copy_(complete)
