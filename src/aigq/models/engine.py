"""Which engine writes with a model: `decoding.engine`, and in trainings `grpo.rollouts`."""

from pathlib import Path

from aigq import processes
from aigq.config import DecodingConfig
from aigq.config_training import GrpoConfig
from aigq.errors import ConfigError
from aigq.models import generator
from aigq.models.decoding import DrawGroups, Write, sample_groups, writer
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
        raise _missing(error, "decoding.engine", config.engine) from None


def rollouts(config: GrpoConfig, start: Path, vocabulary: Vocabulary, longest: int) -> DrawGroups:
    """What draws the rollouts of a training.

    Args:
        start: the model folder that the policy starts from.
        longest: tokens of the longest prompt with its rollout.

    Raises:
        ConfigError: the engine is not installed, takes no options, or there are several processes.
    """
    if config.rollouts == "transformers":
        if config.rollout_options:
            raise ConfigError("grpo.rollout_options are vLLM's; transformers takes none")
        return sample_groups
    if processes.count() > 1:
        raise ConfigError("grpo.rollouts=vllm is for one process; set grpo.rollouts=transformers for several")
    try:
        from aigq.models.vllm_engine import VllmRollouts
    except ModuleNotFoundError as error:
        raise _missing(error, "grpo.rollouts", config.rollouts) from None
    return VllmRollouts(start, vocabulary.end, {"max_model_len": longest, **config.rollout_options})


def _missing(error: ModuleNotFoundError, key: str, engine: str) -> ConfigError:
    return ConfigError(
        f"{key}={engine}: {error.name} is not installed; run `pip install 'aigq[{engine}]'`, or set "
        f"{key}=transformers"
    )
