"""What a training will take of a device's memory, from the model's config alone, before it starts.

Weights, gradients and the two moments of AdamW are counted as in ZeRO (Rajbhandari et al. 2020, arXiv
1910.02054, section 3.1), divided by the number of processes that share them; here gradients and moments are
float32, as are the weights that are trained. What a layer keeps for the backward pass is counted tensor by
tensor as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), for layers with RMSNorm, rotary
positions, SwiGLU and attention that never holds its scores (SDPA). Parameters are counted on torch's meta
device: no weights are read, and a mixture of experts counts all of its experts.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from aigq import processes
from aigq.errors import StageError
from aigq.progress import note

FLOAT32: Final = 4
_LOGIT_COPIES: Final = 3  # logits as float32, their log-softmax, its gradient
_MARGIN: Final = 1.5  # an estimate may be wrong by so much before a training is refused


@dataclass(frozen=True)
class Size:
    """What the estimate needs of a model.

    parameters, trainable: how many. piece: parameters of the largest part that one process gathers at once
    when weights are shared out. cached: numbers in the KV cache, per token, of all layers. Per token and
    layer: kept and floats, see `kept_per_token`, and wide, the width of the feed-forward part.
    """

    parameters: int
    trainable: int
    piece: int
    layers: int
    hidden: int
    vocabulary: int
    kept: int
    floats: int
    wide: int
    cached: int


@dataclass(frozen=True)
class Load:
    """What one process handles at once.

    lists, tokens: sequences of one forward and backward pass, and the longest. predicted: the tokens of each
    that have logits. written, reach: sequences that are generated together, and how long they become.
    """

    lists: int
    tokens: int
    predicted: int
    written: int
    reach: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each process.

    activations are kept until the backward pass, which begins with the logits and then takes one `layer`
    after another. Generating and training take turns. So `total` has the larger of each two.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    layer: float
    logits: float
    cache: float

    @property
    def total(self) -> float:
        """The peak."""
        states = self.weights + self.gradients + self.optimiser
        return states + max(self.activations + max(self.layer, self.logits), self.cache)

    def __str__(self) -> str:
        parts = ", ".join(f"{field.name} {_gb(getattr(self, field.name))}" for field in fields(self))
        return f"{_gb(self.total)}: {parts}"


def size_of(
    config: PretrainedConfig, adapt: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model
) -> Size:
    """Count a model that is not there.

    Args:
        config: the `config.json` of a dense Llama or Qwen, or of a Qwen mixture of experts.
        adapt: what says which of its parameters are trained.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    blocks = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    outside = sum(p.numel() for p in model.parameters()) - sum(blocks)
    model = adapt(model)
    kept, floats = kept_per_token(config)
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        piece=max(*blocks, outside),
        layers=len(blocks),
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        kept=kept,
        floats=floats,
        wide=_wide(config),
        cached=2 * len(blocks) * config.num_key_value_heads * _head(config),
    )


def kept_per_token(config: PretrainedConfig) -> tuple[int, int]:
    """Numbers that one layer keeps for the backward pass, per token: in the computation's type, and float32.

    A norm keeps what comes in, always as float32, and what it scales. Those of q and k, a + k wide, scale
    numbers in the computation's type; the layer's two, h wide, in that of the residual stream, which
    `estimate` adds. These two hand on h each to a projection. Attention keeps q, k and v, as repeated for
    all heads, and its output twice (as it is, and with heads joined): 5a. SwiGLU keeps gate, up, the
    activation and the product: 4f. A mixture of experts does so in each of the experts that a token visits,
    with what goes in and out there besides, and keeps the router's probabilities twice.
    """
    h = config.hidden_size
    a, k = config.num_attention_heads * _head(config), config.num_key_value_heads * _head(config)
    normed = a + k if config.model_type.startswith("qwen3") else 0
    visited = getattr(config, "num_experts_per_tok", None)
    routed = 2 * visited * h + 2 * config.num_experts if visited else 0
    return int(2 * h + 5 * a + normed + 4 * _wide(config) + routed), int(2 * h + normed)


def estimate(
    size: Size, load: Load, *, frozen: int, compute: int, processes: int = 1, checkpointing: bool = False
) -> Memory:
    """The peak on each process.

    Args:
        size: of the model.
        load: on one process.
        frozen: bytes of a weight that is not trained; what is trained has four, as have its moments.
        compute: bytes of an activation: 2 in bfloat16.
        processes: that share weights, gradients and moments out among them (FSDP); one layer or the
            embeddings are whole at a time, and the next is fetched meanwhile.
        checkpointing: layers keep their input alone, and are computed again in the backward pass.

    Where autocast computes in bfloat16 over float32 weights, what the embeddings give stays float32, and so
    do the residual stream and the inputs that checkpointing keeps. FSDP casts the embeddings; under adapters
    they are as they were read.
    """
    trained = size.trainable * FLOAT32 / processes
    whole = (size.parameters - size.trainable) * frozen / processes + trained
    if processes > 1:
        whole += 2 * size.piece * compute
    elif compute < FLOAT32:
        whole += size.trainable * compute  # the copies of the weights that autocast makes
    autocast = processes == 1 and size.trainable == size.parameters
    stream = size.hidden * (FLOAT32 if autocast else compute)
    kept = size.kept * compute + size.floats * FLOAT32 + 2 * stream  # bytes per token and layer
    flowing = 2 * stream + 2 * size.wide * compute  # gradients inside a layer
    tokens = load.lists * load.tokens
    return Memory(
        weights=whole,
        gradients=trained,
        optimiser=2 * trained,
        activations=tokens * size.layers * (stream if checkpointing else kept),
        layer=tokens * (kept + flowing if checkpointing else flowing),
        logits=load.lists * load.predicted * size.vocabulary * _LOGIT_COPIES * FLOAT32,
        cache=load.written * load.reach * size.cached * compute,
    )


def available() -> float:
    """Bytes of the GPU of this process, or of the machine without one, shared by the processes on it."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / local


def announce(memory: Memory) -> None:
    """Say what a training will take.

    Raises:
        StageError: it is far more than this process' device has.
    """
    count = processes.count()
    note(f"memory, on each of {count} process{'es' if count > 1 else ''}: about {memory}")
    there = available()
    if memory.total > _MARGIN * there:
        raise StageError(
            f"the training would take about {_gb(memory.total)}, and there are {_gb(there)}. Fewer lists at "
            "once, gradient checkpointing, low-rank adapters and more processes take less"
        )


def _head(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _wide(config: PretrainedConfig) -> int:
    """Numbers per token between the projections of the feed-forward part, in all experts visited."""
    visited = getattr(config, "num_experts_per_tok", None)
    return int(visited * config.moe_intermediate_size if visited else config.intermediate_size)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
