"""Several processes, one training: weights, gradients and moments are shared out among them (FSDP2).

Each process sees its share of every batch, fetches the weights of one layer at a time and keeps its part of
them. Nothing here changes a training of one process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import torch
from torch import distributed
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from aigq import processes
from aigq.models import generator

_PATIENCE: Final = timedelta(hours=6)  # the others wait for the first to write prompts and label lists
_TRAINED: Final = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def join() -> None:
    """Meet the other processes, if there are any and they have not met."""
    if processes.count() == 1 or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(timeout=_PATIENCE)


@contextmanager
def first_alone() -> Iterator[bool]:
    """The block belongs to the first process: yields whether this is it, the others wait at its end."""
    join()
    yield processes.rank() == 0
    if processes.count() > 1:
        distributed.barrier()


def shard(model: PreTrainedModel, compute: torch.dtype) -> PreTrainedModel:
    """The model on this process' device; of several, each keeps its part of every layer."""
    join()
    if processes.count() == 1:
        return generator.to_device(model)
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (processes.count(),))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    inner: Any = model
    for layer in inner.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(inner, mesh=mesh, mp_policy=policy)
    return model


def total(value: float, device: torch.device) -> float:
    """The sum of a number over all processes."""
    if processes.count() == 1:
        return value
    all_of_it = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(all_of_it)
    return all_of_it.item()


def whole(number: torch.Tensor) -> float:
    """A number that may be shared out among the processes, as a norm of gradients is."""
    return float(number.full_tensor() if isinstance(number, DTensor) else number)


def whole_weights(model: torch.nn.Module) -> dict[str, Any] | None:
    """Every weight, gathered on the CPU of the first process; None for a model that is whole."""
    if processes.count() == 1:
        return None
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = states.get_model_state_dict(model, options=options)
    names: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(weight), name)
        if name in weights:  # tied weights are one tensor again, which is saved once
            weights[name] = weights[first]
    return weights


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """What is trained and the optimiser's state, whole, on the CPU of the first process."""
    return states.get_state_dict(model, optimizer, options=_TRAINED)


def set_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, weights: Any, moments: Any) -> None:
    """Put back what `state_of` gave; only the first process needs to have it."""
    options = states.StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=processes.count() > 1, strict=False
    )
    states.set_state_dict(
        model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=options
    )
