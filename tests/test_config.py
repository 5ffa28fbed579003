from datetime import date
from pathlib import Path

import duckdb
import pytest
import yaml
from pydantic import BaseModel

from aigq import config
from aigq.errors import ConfigError

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
MINIMAL = {"split": {"validation_from": date(2024, 1, 8), "test_from": date(2024, 1, 15)}}


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(recipe):
    assert config.load(recipe).name


def test_overrides_are_yaml_with_dotted_keys(minimal):
    loaded = config.load(
        minimal, ["sft.epochs=3", "evaluation.ks=[5, 20]", "generator.start=null", "name=mine"]
    )
    assert (loaded.sft.epochs, loaded.evaluation.ks, loaded.generator.start) == (3.0, [5, 20], None)
    assert loaded.name == "mine"


def test_dump_is_a_config_that_means_the_same(minimal, tmp_path):
    loaded = config.load(minimal, ["sft.lora_rank=4"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.dump(loaded))
    assert config.load(resolved) == loaded


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.together=true", "prompt.favourites says how long that list is"),
        ("sft.epoch=3", "unknown key sft.epoch; did you mean epochs?"),
        ("sftt.epochs=3", "unknown key sftt; did you mean sft?"),
        (
            "channels.popular.halflife=3",
            "unknown key channels.popular.halflife; did you mean half_life_days?",
        ),
        ("sft.qqqqq=3", "known: lora_rank"),
        ("sft.epochs=many", "sft.epochs: "),
        ("sft.epochs=-1", "sft.epochs: "),
        ("sft.epochs", "--set takes key=value"),
        ("seed=-5", "seed: "),
        ("generator={hidden_size: 57, heads: 3, kv_heads: 3}", "odd width a head"),
        ("generator.kv_heads=3", "no multiple of kv_heads, 3"),
        ("sft={labels: log_order, imitation_epochs: 1}", "no ranker to imitate; set imitation_epochs to 0"),
        ("serving.max_hints=101", "serving.max_hints: "),
        ("serving.weights={u2qq: 1}", "no channel is called u2qq; known: u2q, x2q"),
        ("serving.weights={u2q: -1}", "serving.weights.u2q: "),
        ("serving.scripts=[LATN]", "begins with LATN"),
        ("split.test_from=2026-13-16", "the value is not YAML: month must be in 1..12"),
        ("evaluation.ks=[]", "evaluation.ks: "),
        ("evaluation.ks=[0, 4]", "evaluation.ks.0: "),
        ("name.first=x", "--set name.first: name is a value, not a section"),
    ],
)
def test_a_wrong_override_says_what_to_do(minimal, override, message):
    base = ["name=shop"] if override.startswith("name.") else []
    with pytest.raises(ConfigError) as raised:
        config.load(minimal, [*base, override])
    assert message in str(raised.value)


def test_the_environment_counts_over_the_file_and_set_over_both(minimal, monkeypatch):
    monkeypatch.setenv("AIGQ__SFT__EPOCHS", "7")
    monkeypatch.setenv("AIGQ__EVALUATION__KS", "[5, 20]")
    monkeypatch.setenv("AIGQ__NAME", "ours")
    monkeypatch.setenv("AIGQ_DEBUG", "1")  # not a key
    loaded = config.load(minimal, ["name=mine"])
    assert (loaded.sft.epochs, loaded.evaluation.ks, loaded.name) == (7.0, [5, 20], "mine")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AIGQ__SFT__EPOCH", "3", "AIGQ__SFT__EPOCH: unknown key sft.epoch; did you mean epochs?"),
        ("AIGQ__SFTT__EPOCHS", "3", "AIGQ__SFTT__EPOCHS: unknown key sftt; did you mean sft?"),
        ("AIGQ__SERVING__DEADLINE_MS", "fast", "AIGQ__SERVING__DEADLINE_MS: serving.deadline_ms: "),
        ("AIGQ__EVALUATION__KS", "[1, x]", "AIGQ__EVALUATION__KS: evaluation.ks.1: "),
        ("AIGQ__SERVING", "3", "AIGQ__SERVING: serving: "),
        ("AIGQ__SEED__X", "3", "AIGQ__SEED__X: seed is a value, not a section"),
        ("AIGQ__NAME", "[", "AIGQ__NAME: the value is not YAML"),
        ("AIGQ__", "3", "AIGQ__: unknown key"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path, monkeypatch, name, value, message):
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "seed": 1}))
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert message in str(raised.value)


def test_what_set_overrides_is_not_blamed_on_the_environment(minimal, monkeypatch):
    monkeypatch.setenv("AIGQ__SFT__EPOCHS", "many")
    assert config.load(minimal, ["sft.epochs=3"]).sft.epochs == 3
    with pytest.raises(ConfigError, match=r"^--set sft.epochs: sft.epochs: "):
        config.load(minimal, ["sft.epochs=-1"])


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; give --config a YAML file"):
        config.load(tmp_path)


@pytest.mark.parametrize("size", ["foo", "3", "0GB", "GB", "3 bananas", "-1GB"])
def test_memory_that_is_no_size(minimal, size):
    with pytest.raises(ConfigError, match=r"history\.memory_limit: .* is no size; give .* such as 3GB"):
        config.load(minimal, [f"history.memory_limit='{size}'"])


@pytest.mark.parametrize("size", ["3GB", "500 MB", "0.5gib"])
def test_memory_as_the_engine_takes_it(minimal, size):
    limit = config.load(minimal, [f"history.memory_limit={size}"]).history.memory_limit
    assert duckdb.connect(config={"memory_limit": limit})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "must hold"),
        ("a: [", "is not YAML"),
        ("split: {test_from: 2026-13-16}", "shop.yaml is not YAML: month must be in"),
        ("name: x\n", "split"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "shop.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.load(path)


def test_a_missing_file_points_to_the_recipes(tmp_path):
    with pytest.raises(ConfigError, match="recipes"):
        config.load(tmp_path / "none.yaml")


def test_every_key_is_documented():
    def keys(section, prefix=""):
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from keys(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert list(keys(config.Config)) == []


def test_a_channel_that_is_not_named_keeps_its_weight(minimal):
    weights = config.load(
        minimal, ["serving.weights={u2q: 2}", "serving.scripts=[LATIN, CJK]"]
    ).serving.weights
    assert weights == {**config.ServingConfig().weights, "u2q": 2.0}
    assert weights["popular"] > 0


@pytest.mark.parametrize(
    "url",
    ["https://shop:s3cret@gateway/v1", "https://shop:s3/cret@gateway/v1", "https://gateway/v1?key=s3cret"],
)
def test_the_address_of_a_language_model_holds_no_key(minimal, url):
    """It would be in config.yaml, in metrics.json and in messages; the refusal does not show it either."""
    with pytest.raises(ConfigError, match=r"channels\.llms\.gw\.base_url: .* api_key_env names") as raised:
        config.load(minimal, [f"channels.llms.gw={{model: any, base_url: '{url}'}}"])
    assert "cret" not in str(raised.value)
