import itertools

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config, Qwen3MoeConfig

from aigq.config_training import Adapters, SftConfig
from aigq.errors import StageError
from aigq.models import generator
from aigq.training import loop, memory
from aigq.training.encoding import EncodedLists

QWEN = {"vocab_size": 151936, "head_dim": 128, "num_attention_heads": 32}
REAL = {  # config.json of each model, and the parameters that its weights on the hub have
    "SmolLM2-135M": (
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        134_515_008,
    ),
    "Qwen3-4B": (
        Qwen3Config(
            **QWEN,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        ),
        4_022_468_096,
    ),
    "Qwen3-30B-A3B": (
        Qwen3MoeConfig(
            **QWEN,
            hidden_size=2048,
            moe_intermediate_size=768,
            num_hidden_layers=48,
            num_key_value_heads=4,
            num_experts=128,
            num_experts_per_tok=8,
            tie_word_embeddings=False,
        ),
        30_532_122_624,
    ),
}
TINY = Qwen3Config(
    vocab_size=100,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("name", REAL)
def test_parameters_are_those_of_the_real_weights(name):
    config, parameters = REAL[name]
    size = memory.size_of(config)
    assert size.parameters == size.trainable == parameters


def test_an_estimate_by_hand():
    size = memory.size_of(TINY)
    # a layer: q 8*8, k and v 2*8*4, o 8*8, norms of q and k 2*4, SwiGLU 3*8*16, two norms 2*8
    layer = 64 + 64 + 64 + 8 + 384 + 16
    assert size.parameters == 2 * layer + 100 * 8 + 8
    assert size.piece == 100 * 8 + 8
    # 2h = 16, 5a = 40, a + k = 12, 4f = 64
    assert (size.kept, size.floats, size.wide) == (16 + 40 + 12 + 64, 16 + 12, 16)
    assert size.cached == 2 * 2 * 4
    load = memory.Load(lists=3, tokens=10, predicted=4, written=5, reach=20)
    one = memory.estimate(size, load, frozen=4, compute=4)
    n = size.parameters
    assert (one.weights, one.gradients, one.optimiser) == (4 * n, 4 * n, 8 * n)
    assert one.activations == 3 * 10 * 2 * 176 * 4  # 2h more, scaled by the layer's norms
    assert one.layer == 3 * 10 * 2 * (8 + 16) * 4
    assert one.logits == 3 * 4 * 100 * 3 * 4
    assert one.cache == 5 * 20 * 16 * 4
    assert one.total == 16 * n + one.activations + max(one.layer, one.logits)
    checked = memory.estimate(size, load, frozen=4, compute=4, checkpointing=True)
    assert (checked.activations, checked.layer) == (3 * 10 * 2 * 8 * 4, 3 * 10 * (176 + 48) * 4)
    half = memory.estimate(size, load, frozen=2, compute=2)  # under autocast
    assert (half.weights, half.activations) == (6 * n, 3 * 10 * 2 * (132 * 2 + 28 * 4 + 16 * 4))
    checked = memory.estimate(size, load, frozen=2, compute=2, checkpointing=True)
    assert checked.activations == 3 * 10 * 2 * 8 * 4


def test_four_processes_share_out_what_they_can():
    size, load = memory.size_of(TINY), memory.Load(1, 10, 4, 1, 20)
    one, four = (memory.estimate(size, load, frozen=4, compute=4, processes=p) for p in (1, 4))
    assert (four.gradients, four.optimiser) == (one.gradients / 4, one.optimiser / 4)
    assert four.weights == one.weights / 4 + 2 * size.piece * 4
    assert four.activations == one.activations
    half = memory.estimate(size, load, frozen=2, compute=2, processes=4)
    assert half.activations == 10 * 2 * (132 * 2 + 28 * 4 + 16 * 2)  # FSDP casts the embeddings


def test_adapters_have_gradients_and_moments_alone():
    adapters = Adapters(lora_rank=4, lora_targets=["q_proj"])
    size = memory.size_of(TINY, lambda model: generator.adapt(model, adapters, [1, 2, 3]))
    assert size.trainable == 2 * 4 * (8 + 8) + 3 * 8  # two layers' A and B, three rows of the embedding
    taken = memory.estimate(size, memory.Load(1, 1, 1, 1, 1), frozen=2, compute=2)
    assert taken.gradients == 4 * size.trainable
    assert taken.weights == 2 * (size.parameters - size.trainable) + (4 + 2) * size.trainable


def test_what_cannot_fit_is_refused_before_it_starts(capsys):
    size = memory.size_of(REAL["Qwen3-30B-A3B"][0])
    taken = memory.estimate(size, memory.Load(1, 768, 200, 1, 968), frozen=4, compute=4)
    assert taken.total > 488e9
    if memory.available() > taken.total / 2:
        pytest.skip("this machine might hold it")
    with pytest.raises(StageError, match=r"would take about \d+\.\d GB.*low-rank adapters"):
        memory.announce(taken)
    assert "on each of 1 process: about 5" in capsys.readouterr().err


def qwen(vocabulary, feed_forward, layers, heads, kv_heads):
    """32 wide."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32 // heads,
        tie_word_embeddings=True,
    )


MEASURED = {  # what takes most: inputs of layers; what a layer keeps; logits
    "deep": (qwen(100, 48, 8, 4, 2), memory.Load(4, 96, 8, 0, 0)),
    "wide": (qwen(100, 192, 2, 2, 2), memory.Load(4, 96, 8, 0, 0)),
    "words": (qwen(1000, 96, 2, 2, 1), memory.Load(4, 64, 32, 0, 0)),
}


def peak_of(config, load, dtype, checkpointing, folder):
    """Bytes that torch's allocator gave out at once, in two steps of two parts each."""
    n, rng = 2 * load.lists, np.random.default_rng(0)
    tokens = rng.integers(5, config.vocab_size, n * load.tokens).astype(np.int32)
    starts, prompts = np.arange(n + 1) * load.tokens, np.full(n, load.tokens - load.predicted + 1)
    data = EncodedLists(tokens, tokens, np.ones(len(tokens), np.float32), starts, prompts)
    settings = SftConfig(dtype=dtype, epochs=2, batch_size=n, lists_at_once=load.lists)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = AutoModelForCausalLM.from_config(config)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        report = {"validate": lambda model: {"query_hr": 0.5}, "report": lambda entry: None}
        loop.fit(model, data, settings, folder, pad=0, seed=0, **report)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"), [("deep", "bfloat16"), ("wide", "float32"), ("words", "float32")]
)
def test_a_real_training_takes_what_was_estimated_within_15_percent(shape, dtype, checkpointing, tmp_path):
    config, load = MEASURED[shape]
    compute = 2 if dtype == "bfloat16" else 4
    taken = memory.estimate(
        memory.size_of(config), load, frozen=compute, compute=compute, checkpointing=checkpointing
    )
    states = taken.weights + taken.gradients + taken.optimiser
    assert taken.total > 1.5 * states  # a test of the rest
    assert peak_of(config, load, dtype, checkpointing, tmp_path) == pytest.approx(taken.total, rel=0.15)
