"""Data parallelism: processes that `torchrun` has started, each on a device of its own, train one model together.

Each takes its share of every batch, and `DistributedDataParallel` gives all of them the mean of their gradients
(all-reduce), so that all make the same step. Where a process is alone, nothing here does anything.
"""

import io
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_cifar10.runs import TrainingError
from alexnet_cifar10.runs.files import to_bytes


def world() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0. The first one validates, prints and writes for all."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def together() -> Iterator[None]:
    """Inside of it, the processes that `torchrun` has started are a group: NCCL joins GPUs, gloo joins processors.

    An error in one ends all. `TrainingError` is for what ends all alike, so that only the first process tells it. The
    process ends here: Python's own end may wait for the others (NCCL), or abort (DDP still has threads of the group).
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)  # NCCL refuses two processes on one
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    if rank() > 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: only the first one has something to finish
    failed = True
    try:
        yield
        dist.destroy_process_group()
        failed = False
    except BaseException as error:
        if rank() > 0 and isinstance(error, TrainingError):
            with suppress(TrainingError):
                on_first(int)  # it waits for what never comes: until the first one has told the error, and has ended
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
    print(end="", flush=True)
    os._exit(failed)


def on_first(work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """What `work(*arguments)` returns in the first process, which alone does it. If it fails there, all end."""
    if world() == 1:
        return work(*arguments, **more)
    answer = [work(*arguments, **more) if rank() == 0 else None]
    try:
        dist.broadcast_object_list(answer)
    except RuntimeError as error:
        raise TrainingError(f"another process has ended, or it is not heard any more: {error}") from error
    return answer[0]


def in_step(model: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Give all processes the first one's `state`, name -> what has a `state_dict`; return the model to train with.

    Batch normalisation takes its statistics from the whole batch on GPUs, with gloo from each process's share.
    """
    if world() == 1:
        return model
    saved = on_first(to_bytes, {name: part.state_dict() for name, part in state.items()})
    for name, content in torch.load(io.BytesIO(saved), map_location="cpu").items():
        state[name].load_state_dict(content)
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def share(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each batch, the images of this process: every `world()`-th. Order and augmentation stay as for one process."""
    for images, labels in batches:
        yield images[rank() :: world()], labels[rank() :: world()]


def of_all(loss: Tensor, images: int) -> tuple[Tensor, Tensor, int | Tensor]:
    """The mean loss of this process's `images` -> what to go backward from, the mean loss of all images, their number.

    The mean of the processes' gradients is that of the images if all shares are equal; else the factor makes it so.
    """
    if world() == 1:
        return loss, loss.detach(), images
    sums = torch.stack([loss.detach() * images, torch.full_like(loss, images)])
    dist.all_reduce(sums)
    return loss * (world() * images / sums[1]), sums[0] / sums[1], sums[1]
