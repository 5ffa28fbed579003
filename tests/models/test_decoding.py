import pytest

torch = pytest.importorskip("torch")

from aigq.config import PromptConfig
from aigq.config_training import GeneratorConfig
from aigq.errors import ConfigError
from aigq.history.prompt import Behaviour, PromptParts, compressed, special_tokens
from aigq.models import generator
from aigq.models.decoding import QueryTree, Trees, generate_lists, writer
from aigq.models.vocabulary import Vocabulary, train_tokenizer

QUERIES = ["whole milk", "white bread", "milk", "牛奶", "egg nog 🎄", "whole milk organic"]
TINY = GeneratorConfig(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=300)


@pytest.fixture(scope="module")
def vocabulary():
    special = special_tokens(PromptConfig(max_behaviours=4), [])
    return Vocabulary(train_tokenizer([(q, 5) for q in QUERIES[:3]], 300, special))


@pytest.fixture(scope="module")
def model(vocabulary):
    return generator.build(TINY, vocabulary, context=256, seed=0)


def prompt(vocabulary, *texts):
    parts = PromptParts([Behaviour(0, "search", t) for t in texts])
    return vocabulary.encode_prompt(compressed(parts), 200)


def test_frequent_whole_query_with_its_separator_is_one_token_and_any_text_is_expressible(vocabulary):
    assert len(vocabulary.encode_query("whole milk")) == 1
    for text in [*QUERIES, "never seen ☃ text"]:
        assert vocabulary.tokenizer.decode(vocabulary.encode_query(text)) == text + ";;"


def test_pieces_tokenise_like_the_whole_prompt(vocabulary):
    ids = prompt(vocabulary, "whole milk", "牛奶")
    assert vocabulary.tokenizer.encode(vocabulary.tokenizer.decode(ids), add_special_tokens=False) == ids


def test_the_cache_of_pieces_has_a_bound(vocabulary, monkeypatch):
    monkeypatch.setattr("aigq.models.vocabulary._KEPT", 3)
    words = Vocabulary(vocabulary.tokenizer)
    for n in range(10):
        words.encode(f"text {n}")
    assert words.encode("milk " * 100) == vocabulary.tokenizer.encode("milk " * 100)
    assert len(words._cache) <= 3
    assert all(len(piece) < 200 for piece in words._cache)


def test_days_with_the_same_queries_share_a_tree(vocabulary):
    trees = Trees(vocabulary).by_day({1: QUERIES, 2: [*reversed(QUERIES)], 3: QUERIES[:2]})
    assert trees[1] is trees[2]
    assert trees[3].queries == sorted(QUERIES[:2])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lists_have_no_repeats_and_only_allowed_text(model, vocabulary, temperature):
    tree = QueryTree(QUERIES, vocabulary)
    small = QueryTree(QUERIES[:2], vocabulary)
    prompts = [prompt(vocabulary, "milk"), prompt(vocabulary, "whole milk", "white bread", "milk")]
    first, second = generate_lists(
        writer(model, vocabulary), prompts, [tree, small], 6, temperature=temperature
    )
    assert sorted(first) == sorted(QUERIES)  # six queries asked for, six allowed: each exactly once
    assert sorted(second) == sorted(QUERIES[:2])  # exhausted, then ended


def test_barred_queries_are_left_out_and_the_list_ends_without_them(model, vocabulary):
    tree = QueryTree(QUERIES, vocabulary)
    barred = [{"milk", "牛奶", "not in the tree"}, set()]
    prompts = [prompt(vocabulary, "milk"), prompt(vocabulary, "milk")]
    first, second = generate_lists(writer(model, vocabulary), prompts, [tree, tree], 6, without=barred)
    assert sorted(first) == sorted(set(QUERIES) - barred[0])
    assert sorted(second) == sorted(QUERIES)


def test_a_new_model_raises_the_logits_of_what_it_looks_at(vocabulary):
    config = GeneratorConfig(
        hidden_size=64, layers=2, heads=4, kv_heads=4, intermediate_size=64, vocab_size=300
    )
    model = generator.build(config, vocabulary, context=64, seed=0)
    attention = model.model.layers[0].self_attn
    product = attention.o_proj.weight @ attention.v_proj.weight
    torch.testing.assert_close(product, generator.COPY_SCALE**2 * torch.eye(64), atol=1e-5, rtol=0)
    read = vocabulary.encode("white bread;;") + vocabulary.encode("<queries>")
    with torch.no_grad():
        logits = model(torch.tensor([read])).logits[0, -1]
    assert logits[read[0]] > logits.mean() + 2 * logits.std()


def test_queries_that_look_like_separators_or_special_tokens(model, vocabulary):
    queries = ["a", "a;;b", "<end>", "x", "x;;", ";;", "<>"]
    tree = QueryTree(queries, vocabulary)
    (written,) = generate_lists(writer(model, vocabulary), [prompt(vocabulary, "a")], [tree], 9)
    assert sorted(written) == ["<end>", "a", "a;;b", "x"]  # `x;;` is written like `x`; two leave nothing
    assert vocabulary.end not in vocabulary.encode_query("<end>")


def test_a_prompt_whose_head_is_too_long_loses_its_longest_texts(vocabulary):
    parts = PromptParts([Behaviour(0, "search", "milk")], favourites=["milk", "牛" * 1000, "white bread"])
    ids = vocabulary.encode_prompt(compressed(parts), 40)
    assert len(ids) <= 40
    text = vocabulary.tokenizer.decode(ids)
    assert "<favourites>milk;;white bread;;<queries>" in text
    assert "牛" not in text


def test_batched_lists_equal_single_ones(model, vocabulary):
    tree = QueryTree(QUERIES, vocabulary)
    prompts = [prompt(vocabulary, "milk"), prompt(vocabulary, "whole milk", "white bread", "milk")]
    together = generate_lists(writer(model, vocabulary), prompts, [tree, tree], 4)
    alone = [generate_lists(writer(model, vocabulary), [p], [tree], 4)[0] for p in prompts]
    assert together == alone


def test_a_base_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"^generator\.base: .*qwen3-06b is neither a model folder nor .*$"):
        generator.extend_pretrained(str(tmp_path / "qwen3-06b"), [])


def test_new_tokens_of_a_pretrained_base_start_as_the_mean_of_their_words(tmp_path, model, vocabulary):
    model.save_pretrained(tmp_path)
    vocabulary.tokenizer.save_pretrained(tmp_path)
    grown, words = generator.extend_pretrained(str(tmp_path), ["<5_days_later>"])
    parts = words.tokenizer.encode("5 days later", add_special_tokens=False)
    weight = grown.get_input_embeddings().weight
    new = words.tokenizer.convert_tokens_to_ids("<5_days_later>")
    assert new >= len(vocabulary.tokenizer)
    torch.testing.assert_close(weight[new], weight[parts].mean(dim=0))


def test_a_saved_model_loads_with_plain_transformers(tmp_path, model, vocabulary):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.save_pretrained(tmp_path)
    vocabulary.tokenizer.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([prompt(vocabulary, "milk")])
    torch.testing.assert_close(plain(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<end>"
