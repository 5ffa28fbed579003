"""A new model: what it starts from, and what its biases are."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np

from aigq.config import parse
from aigq.config_training import GeneratorConfig
from aigq.errors import StageError
from aigq.models import generator
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.recall.direct import DirectGenerator

SMALL = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 2, "intermediate_size": 32}
NAMES = ["forza 3", "forza 4", "egg nog"]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(train_tokenizer([(name, 5) for name in NAMES], 400, ["<queries>"]))


def make(vocabulary, **changes):
    return generator.build(GeneratorConfig(**SMALL, **changes), vocabulary, 32, 0)


def test_a_model_with_biases_is_whole_after_saving_and_trains_all_but_those_of_the_output(
    vocabulary, tmp_path
):
    generator.save(make(vocabulary, attention_bias=True), tmp_path)
    read = generator.read(tmp_path, torch.float32)
    weights = dict(read.named_parameters())
    places = [name for name in weights if name.endswith(("q_proj.bias", "k_proj.bias"))]
    assert len(places) == 4
    assert all(weights[name].std() > 0.3 for name in places)
    still = {name for name, weight in weights.items() if not weight.requires_grad}
    assert still == {f"model.layers.{n}.self_attn.o_proj.bias" for n in range(2)}
    assert all(not weights[name].any() for name in still)
    assert not any(name.endswith(".bias") for name, _ in make(vocabulary).named_parameters())


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", None])
def test_a_damaged_model_folder_is_one_line(vocabulary, tmp_path, file):
    model = tmp_path / "models" / "direct_il_sft"
    generator.save(make(vocabulary), model)
    vocabulary.tokenizer.save_pretrained(model)
    generator.require_whole(model)
    if file is None:
        (model / "model.safetensors").unlink()
    else:
        whole = (model / file).read_bytes()
        (model / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match=r"^/.*(is damaged|lost its weights).*train the model again"):
        DirectGenerator(
            parse({"split": {"validation_from": "2026-01-02", "test_from": "2026-01-03"}}),
            tmp_path,
            "direct_il_sft",
        )


def test_a_share_of_the_embeddings_comes_from_the_encoder(vocabulary):
    def encode(texts):  # all games of one series mean the same
        return np.array([[1.0, len(text)] if "forza" in text else [len(text), 1.0] for text in texts])

    def start(share):
        model = make(vocabulary)
        generator.start_from_encoder(model, vocabulary, encode, share)
        return model.get_input_embeddings().weight.detach()

    random, mixed, meant = (start(share) for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(random, make(vocabulary).get_input_embeddings().weight.detach())
    torch.testing.assert_close(mixed, 0.5**0.5 * (random + meant))
    third, fourth = (vocabulary.encode_query(name)[0] for name in NAMES[:2])
    alike = [float(torch.cosine_similarity(rows[third], rows[fourth], dim=0)) for rows in (meant, mixed)]
    assert alike[0] > 0.99 > alike[1]
