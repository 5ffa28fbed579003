import subprocess
import sys

import pytest
from transformers import LlamaConfig, Qwen3Config, Qwen3MoeConfig

from aigq.config_training import Adapters
from aigq.errors import StageError
from aigq.models import generator
from aigq.training import memory

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
    # 6h = 48, 5a = 40, 2(a + k) = 24, 4f = 64
    assert size.kept == 48 + 40 + 24 + 64
    assert size.cached == 2 * 2 * 4
    load = memory.Load(lists=3, tokens=10, predicted=4, written=5, reach=20)
    one = memory.estimate(size, load, frozen=4, compute=4)
    n = size.parameters
    assert (one.weights, one.gradients, one.optimiser) == (4 * n, 4 * n, 8 * n)
    assert one.activations == 3 * 10 * 2 * 176 * 4
    assert one.logits == 3 * 4 * 100 * 3 * 4
    assert one.cache == 5 * 20 * 16 * 4
    assert one.total == 16 * n + one.activations + one.logits
    checked = memory.estimate(size, load, frozen=4, compute=4, checkpointing=True)
    assert checked.activations == 3 * 10 * (2 * 8 + 176) * 4
    half = memory.estimate(size, load, frozen=2, compute=2)
    assert (half.weights, half.activations) == (6 * n, one.activations / 2)


def test_four_processes_share_out_what_they_can():
    size, load = memory.size_of(TINY), memory.Load(1, 10, 4, 1, 20)
    one, four = (memory.estimate(size, load, frozen=4, compute=4, processes=p) for p in (1, 4))
    assert (four.gradients, four.optimiser) == (one.gradients / 4, one.optimiser / 4)
    assert four.weights == one.weights / 4 + 2 * size.piece * 4
    assert four.activations == one.activations


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


MEASURE = """
import sys, torch
from transformers import AutoModelForCausalLM, Qwen3Config
from aigq.training import memory
checkpointing = sys.argv[1] == "True"
torch.set_num_threads(1)
config = Qwen3Config(vocab_size=4000, hidden_size=256, intermediate_size=704, num_hidden_layers=6,
                     num_attention_heads=8, num_key_value_heads=8, head_dim=32, tie_word_embeddings=True)
small = AutoModelForCausalLM.from_config(Qwen3Config(vocab_size=9, hidden_size=16, num_hidden_layers=1,
                                                     num_attention_heads=2, num_key_value_heads=1))
small(input_ids=torch.zeros(1, 9, dtype=torch.long)).logits.sum().backward()  # libraries are loaded
torch.optim.AdamW(small.parameters()).step()
def peak():  # of this program alone: getrusage counts the process that it was forked from
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
before = peak()
model = AutoModelForCausalLM.from_config(config).train()
if checkpointing: model.activation_checkpointing_enable({"use_reentrant": False})
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    ids = torch.randint(4000, (16, 256))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=65).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, -64:]).backward()
    optimizer.step(); optimizer.zero_grad(set_to_none=True)
load = memory.Load(16, 256, 64, 0, 0)
taken = memory.estimate(memory.size_of(config), load, frozen=4, compute=4, checkpointing=checkpointing)
print((peak() - before) / taken.total)
"""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_training_takes_what_was_estimated_within_a_factor_of_two_and_a_half(checkpointing):
    command = [sys.executable, "-c", MEASURE, str(checkpointing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 0.4 < float(done.stdout) < 2.5, done.stdout
