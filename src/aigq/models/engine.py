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
        ConfigError: the engine is not installed, takes no options, or cannot write with this model.
    """
    if config.engine_options and config.engine != "vllm":
        raise ConfigError(f"decoding.engine_options are vLLM's; {config.engine} takes none")
    if config.engine == "transformers":
        return writer(generator.load(folder), vocabulary)
    try:
        if config.engine == "onnx":
            import onnxruntime_genai  # noqa: F401 - its builder runs in a process of its own

            from aigq.models.onnx_engine import OnnxWriter

            return OnnxWriter(folder, vocabulary.end)
        from aigq.models.vllm_engine import VllmWriter

        return VllmWriter(folder, vocabulary.end, config.engine_options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"decoding.engine={config.engine}: {error.name} is not installed; run `pip install "
            f"'aigq[{config.engine}]'`, or set decoding.engine=transformers"
        ) from None
