"""The Direct generator's weights: a Hugging Face causal LM folder that plain transformers and vLLM load."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from aigq.config import Config
from aigq.config_training import Adapters, GeneratorConfig
from aigq.errors import ConfigError, StageError
from aigq.models.vocabulary import PAD, Vocabulary

EMBEDDING_STD = 0.05
"""Embeddings are the output layer too; at the usual 0.02 a sure token could not get a high logit for long."""

COPY_SCALE = 0.3
"""How strongly a new attention layer writes what it looks at, see `start_copying`."""

ROPE_BASE = 300.0
"""Prompts have a few hundred tokens: a small base tells neighbours apart that a base of 10,000 would blur."""


PLACE_STD = 0.5
"""Deviation of new biases of attention queries and keys, see `build`."""


def build(config: GeneratorConfig, vocabulary: Vocabulary, context: int, seed: int) -> PreTrainedModel:
    """A small Qwen3-architecture model with new weights; `context` is the longest prompt plus list.

    What a list copies stands at a distance in the prompt that hardly depends on the words. Without biases a
    head must first learn a constant from the embeddings to look at a distance, whatever stands there.
    """
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(vocabulary.tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=max(config.hidden_size // config.heads, 16),
            max_position_embeddings=context,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            attention_dropout=config.dropout,
            attention_bias=config.attention_bias,
            tie_word_embeddings=True,
            use_cache=True,
            pad_token_id=vocabulary.pad,
            eos_token_id=vocabulary.end,
            bos_token_id=None,
        )
    )
    with torch.no_grad():
        _matrix(model.get_input_embeddings()).normal_(0, EMBEDDING_STD)
    start_copying(model)
    if config.attention_bias:
        layers: Any = model.model.layers
        with torch.no_grad():
            for layer in layers:
                layer.self_attn.q_proj.bias.normal_(0, PLACE_STD)
                layer.self_attn.k_proj.bias.normal_(0, PLACE_STD)
    return model


def new(config: Config, vocabulary: Vocabulary, context: int) -> PreTrainedModel:
    """A model of `generator`'s sizes, its embeddings begun by the text encoder as far as the config says."""
    model = build(config.generator, vocabulary, context, config.seed)
    if share := config.generator.init_from_encoder:
        from aigq.models.text_encoder import TextEncoder

        start_from_encoder(model, vocabulary, TextEncoder(config.encoder.name).encode, share)
    return model


def start_copying(model: PreTrainedModel) -> None:
    """Let every attention layer begin by writing out the very tokens that it looks at.

    Output and value projections start as each other's transpose, W_O W_V = scale * P with P a projection of
    the width d: what a head attends to is added to the residual stream as it is, and as the embeddings are
    the output layer, that raises the logits of the attended tokens. Only *where to look* is left to learn.
    """
    layers: Any = model.model.layers
    with torch.no_grad():
        for layer in layers:
            value, out = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight  # (kv h, d), (d, q h)
            directions = torch.nn.init.orthogonal_(torch.empty_like(value))
            groups, width = out.shape[1] // value.shape[0], layer.self_attn.head_dim
            per_head = directions.view(-1, width, directions.shape[1]).repeat_interleave(groups, dim=0)
            value.copy_(COPY_SCALE * directions)
            out.copy_(COPY_SCALE / groups * per_head.reshape(out.shape[1], -1).T)


def load(folder: str | Path) -> PreTrainedModel:
    """A saved model folder, weights from safetensors only, in float32; on the GPU when there is one."""
    return to_device(read(folder, torch.float32))


def require_whole(folder: Path) -> None:
    """Raise StageError where a file of a saved model is cut off or damaged, or its weights are missing."""
    weights = [*folder.glob("*.safetensors")]
    try:
        for path in folder.glob("*.json"):
            json.loads(path.read_text(encoding="utf-8"))
        for path in weights:
            with safe_open(path, "pt"):
                pass
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{path} is damaged ({error}); train the model again with --force") from None
    if not weights:
        raise StageError(f"{folder} has lost its weights, *.safetensors; train the model again with --force")


def read(folder: str | Path, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """The weights of a folder in memory; auto: of the type that they were saved in."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    for name, weight in model.named_parameters():
        if name.endswith("o_proj.bias"):
            weight.requires_grad_(False)  # stays 0: vLLM's Qwen3 has none; that of the values does as well
    return model


def adapt(model: PreTrainedModel, config: Adapters, special: Sequence[int] = ()) -> PreTrainedModel:
    """The same model; where the config asks for low-rank adapters, with these inside and the rest frozen.

    Tokens that the base never saw start as the mean of their words; frozen, they would stay there.
    So a few rows of the embedding are trained as well.

    Args:
        special: token ids whose embedding, and output row where it is not the same, are trained. None under
            TRL, which reads the output layer's weights past such rows.
    """
    if config.lora_rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {name: list(special) for name, module in model.named_modules() if module in (inputs, outputs)}
    if _matrix(inputs) is _matrix(outputs):  # peft keeps the output tied to the rows of the input
        rows = {name: ids for name, ids in rows.items() if model.get_submodule(name) is inputs}
    get_peft_model(
        model,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=2 * config.lora_rank,
            target_modules=config.lora_targets,
            trainable_token_indices=rows if special else None,
        ),
    )
    return model


def save(model: PreTrainedModel, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """A folder that plain transformers and vLLM load; low-rank adapters are merged into a copy first.

    Args:
        weights: all of the model's, where it holds a part of them itself.
    """
    plain = merged(model, weights)
    plain.save_pretrained(folder, state_dict=weights if plain is model else None)


def merged(model: PreTrainedModel, weights: dict[str, Any] | None = None) -> PreTrainedModel:
    """The same model, or a copy on the CPU with its low-rank adapters merged into the weights."""
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return model
    from peft import get_peft_model

    own = model.get_input_embeddings().weight  # type: ignore[union-attr]
    twin = get_peft_model(
        AutoModelForCausalLM.from_config(model.config, dtype=own.dtype), adapters["default"]
    )
    twin.get_base_model().load_state_dict(weights or model.state_dict())
    plain: Any = twin.merge_and_unload()
    plain.tie_weights()
    whole: PreTrainedModel = plain
    return whole


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """The same model on the GPU when there is one."""
    module: torch.nn.Module = model
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    return model


def extend_pretrained(base: str, special: Sequence[str]) -> tuple[PreTrainedModel, Vocabulary]:
    """A pretrained base with new special tokens, each embedded as the mean of its words' sub-tokens.

    Paper section 3.1. The output row starts the same way when it is not tied to the input row.

    Raises:
        ConfigError: there is no such model on this machine.
    """
    try:
        model = read(base, "auto")
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, padding_side="left")
    except (OSError, ValueError, SafetensorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"generator.base: {base} is neither a model folder nor in the Hugging Face cache, and nothing is "
            f"downloaded here ({why})"
        ) from None
    apart = tokenizer.pad_token_id in (None, tokenizer.eos_token_id)  # padding may not look like the end
    vocabulary = add_tokens(model, Vocabulary(tokenizer), [PAD, *special] if apart else special)
    if apart:
        tokenizer.pad_token = PAD
    ids = {"pad_token_id": vocabulary.pad, "eos_token_id": vocabulary.end, "bos_token_id": None}
    model.config.update(ids)
    # a base brings its own sampling along, such as top_p, of which the probabilities of rollouts know nothing
    model.generation_config = GenerationConfig(**ids)
    return model, vocabulary


def add_tokens(model: PreTrainedModel, vocabulary: Vocabulary, special: Sequence[str]) -> Vocabulary:
    """The vocabulary with those special tokens that it lacks, each embedded as the mean of its sub-tokens.

    So Think can start from a Direct checkpoint, whose vocabulary has none of Think's marks.
    """
    tokenizer = vocabulary.tokenizer
    missing = [token for token in special if token not in vocabulary.special.values()]
    if not missing:
        return vocabulary
    words = {token: words_of(token) for token in missing}
    parts = {token: tokenizer.encode(text, add_special_tokens=False) for token, text in words.items()}
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    both = (_matrix(model.get_input_embeddings()), _matrix(model.get_output_embeddings()))
    matrices = {id(weight): weight for weight in both}
    with torch.no_grad():
        for matrix in matrices.values():  # one when they are tied
            for token, ids in parts.items():
                matrix[tokenizer.convert_tokens_to_ids(token)] = matrix[ids].mean(dim=0)
    return Vocabulary(tokenizer)


def _matrix(module: object) -> torch.Tensor:
    """The weight matrix (V, d) of an embedding or of the output layer."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{type(module).__name__} holds no weight matrix")
    return weight


def words_of(token: str) -> str:
    """`<1_day_ago>` -> `1 day ago`; `<age=45-54>` -> `age 45-54`."""
    return re.sub(r"[_=]", " ", token.strip("<>"))


def start_from_encoder(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    encode: Callable[[Sequence[str]], np.ndarray],
    share: float = 1.0,
) -> None:
    """Replace `share` of the variance of random token embeddings by the text encoder's, reduced in width.

    Tokens that are words or whole queries then start near their synonyms. The reduction keeps the principal
    directions, and the result keeps the random matrix's scale.
    """
    weight = _matrix(model.get_input_embeddings())
    tokenizer = vocabulary.tokenizer
    texts = [words_of(str(tokenizer.decode([i]))).strip("; ") or " " for i in range(weight.shape[0])]
    vectors = torch.from_numpy(encode(texts)).float()  # (V, d_encoder)
    vectors = vectors - vectors.mean(dim=0)
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    width = min(weight.shape[1], directions.shape[0])
    reduced = torch.zeros_like(weight)
    reduced[:, :width] = vectors @ directions[:width].T
    rotation, _ = torch.linalg.qr(torch.randn(weight.shape[1], weight.shape[1]))
    with torch.no_grad():
        meant = reduced @ rotation * (weight.std() / reduced.std())
        weight.copy_(share**0.5 * meant + (1 - share) ** 0.5 * weight)
