"""Channels that propose queries. `build_channel` makes one by name; heavy libraries load only when needed."""

from pathlib import Path

from aigq.config import Config
from aigq.errors import UsageError, suggestion
from aigq.recall.channel import Hint, RecallChannel
from aigq.systems import CHANNELS, GENERATORS

__all__ = ["Hint", "RecallChannel", "build_channel"]


def build_channel(name: str, config: Config, run: Path) -> RecallChannel:
    """The channel of that name, not yet fitted.

    Args:
        name: one of `systems.CHANNELS`; `zero_shot:NAME` needs `channels.llms.NAME` in the config.
        config: the whole run's config.
        run: the run folder; channels that keep files use `run/channels/`.

    Raises:
        UsageError: no such channel.
    """
    folder = run / "channels" / name.replace(":", "_")
    k_users, channels = config.samples.k_users, config.channels
    if name.startswith("zero_shot:"):
        return _zero_shot(name, config, folder)
    match name:
        case "popular":
            from aigq.recall.popular import Popular

            return Popular(channels.popular.half_life_days, k_users)
        case "personal":
            from aigq.recall.personal import Personal

            return Personal(channels.personal.half_life_days, k_users)
        case "coclick":
            from aigq.recall.coclick import CoClick

            return CoClick(channels.coclick.neighbours, channels.coclick.half_life_days, k_users)
        case "ranker":
            from aigq.recall.ranker import Ranker

            return Ranker.of(config, run)
        case "ctr":
            from aigq.recall.ctr import Ctr

            return Ctr(run)
        case "ebr":
            from aigq.models.text_encoder import TextEncoder
            from aigq.recall.ebr import Ebr

            return Ebr(channels.ebr, TextEncoder(config.encoder.name), k_users, config.seed)
        case "sasrec" | "ease" | "als":
            from aigq.recall.peers import Peer

            return Peer(name, k_users, config.seed, folder)
    known = (*CHANNELS, "zero_shot:NAME", *GENERATORS)
    raise UsageError(f"no channel or generator is called {name!r}; {suggestion(name, known)}")


def _zero_shot(row: str, config: Config, folder: Path) -> RecallChannel:
    from aigq.recall.zero_shot import ZeroShot

    name, llms = row.partition(":")[2], config.channels.llms
    if name not in llms:
        known = ", ".join(f"zero_shot:{known}" for known in llms) or "none is configured"
        raise UsageError(f"no channels.llms.{name} in the config for the row {row!r}; known: {known}")
    longest = max(config.samples.list_length, *config.evaluation.ks)
    return ZeroShot(row, llms[name], config.samples.k_users, longest, folder / "answers.sqlite")
