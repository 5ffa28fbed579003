"""Which engine writes with a trained model: `decoding.engine`."""

from pathlib import Path

from aigq.config import DecodingConfig
from aigq.errors import ConfigError
from aigq.models import generator
from aigq.models.decoding import Write, writer
from aigq.models.vocabulary import Vocabulary


def opened(config: DecodingConfig, folder: Path, vocabulary: Vocabulary) -> Write:
    """What writes with the model in `folder`.

    Raises:
        ConfigError: the engine is vLLM, and it is not installed.
    """
    if config.engine == "transformers":
        return writer(generator.load(folder), vocabulary)
    try:
        from aigq.models.vllm_engine import VllmWriter
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"decoding.engine=vllm: {error.name} is not installed; run `pip install 'aigq[vllm]'`, or set "
            "decoding.engine=transformers"
        ) from None
    return VllmWriter(folder, vocabulary.end, config.engine_options)
