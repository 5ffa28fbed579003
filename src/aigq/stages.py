"""The stages of a run, each begun once and recorded in the run folder."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aigq import processes
from aigq.config import Config
from aigq.errors import ConfigError, StageError, UsageError, suggestion
from aigq.progress import note
from aigq.runs import Run, command
from aigq.systems import CHANNELS, CTR, FROM_DIRECT, GENERATORS, GRPO, SERVED, SFT, base, stage_of, thinks

if TYPE_CHECKING:
    from aigq.evaluation.past_shop import PastShop
    from aigq.recall.channel import RecallChannel
    from aigq.recall.think import ThinkGenerator


def import_if_absent(config: Config) -> None:
    """Import `data.source` when `data.tables` does not exist yet."""
    tables = config.data.tables
    if (tables / "events.parquet").exists():
        return
    if config.data.source is None:
        raise UsageError(f"{tables} holds no tables; run `aigq import SOURCE PATH --out {tables}` first")
    from aigq.sources import import_source

    note(f"import {config.data.source} into {tables}")
    with redirect_stdout(sys.stderr):
        import_source(config.data.source, config.data.path, tables)


def run_prepare(run: Run, *, force: bool) -> dict[str, Any]:
    """History, counts and samples; once for these tables and this config."""
    from aigq.samples.prepare import fingerprint_of
    from aigq.samples.prepare import prepare as work

    if force:
        run.forget("prepare")
    if run.config.history.item_text == "generated":
        run_item_texts(run)
    run.check("prepare")
    if run.finished("prepare") and run.result("prepare").get("fingerprint") != fingerprint_of(
        run.config, run.folder
    ):
        note("prepare: the imported tables have changed; stages made from the old ones are done again")
        run.forget("prepare")
    return _once(run, "prepare", lambda: work(run.config, run.folder, force=force), force=force)


def run_item_text(run: Run, *, resume: bool, force: bool) -> dict[str, Any]:
    """The item-to-text model, once, and its text for every item."""
    from aigq.item_text import train as work

    return _trained(run, "item_text", partial(work, run), resume=resume, force=force)


def run_item_texts(run: Run) -> dict[str, Any]:
    """Texts for items that are new or have changed since the model last wrote."""
    need(run, "item_text")
    from aigq.item_text import write_table

    with redirect_stdout(sys.stderr):
        return write_table(run)


def run_sft(run: Run, system: str, *, resume: bool, force: bool) -> dict[str, Any]:
    """One generator, once. Raises StageError where the one that it starts from is not trained."""
    from aigq.training.sft import train_sft as work

    stage = stage_of(system)
    if system in FROM_DIRECT and run.config.think.from_direct:
        _need_current(run, "sft:direct_il_sft")
    training = partial(work, run.config, run.folder, system=system)
    return _trained(run, stage, training, resume=resume, force=force)


def run_grpo(run: Run, system: str, *, resume: bool, force: bool) -> dict[str, Any]:
    """One generator by reinforcement learning."""
    from aigq.training.grpo import train_grpo as work

    stage = stage_of(system)
    for before in (stage_of(GRPO[system]), CTR):
        _need_current(run, before)
    training = partial(work, run.config, run.folder, system=system)
    return _trained(run, stage, training, resume=resume, force=force)


def run_ctr(run: Run, *, resume: bool, force: bool) -> dict[str, Any]:
    """The CTR model, once."""
    from aigq.training.ctr import train_ctr as work

    return _trained(run, "ctr", partial(work, run.config, run.folder), resume=resume, force=force)


def run_table(run: Run) -> dict[str, Any]:
    """Lists, metrics and report of all rows; lists that are still valid are reused."""
    from aigq.evaluation.table import build_table
    from aigq.models.text_encoder import TextEncoder

    shop = cache(lambda: past_shop(run))  # its rows share what the generator writes

    def build(row: str) -> "RecallChannel":
        return served(run, row, shop()) if row in SERVED else channel_of(run, row)

    def encode(texts: Sequence[str]) -> Any:
        return TextEncoder(run.config.encoder.name).encode(texts)

    def work() -> dict[str, Any]:
        return build_table(
            run.config,
            run.folder,
            build=build,
            encode=encode,
            fingerprint=lambda row: _fingerprint(run, row),
            trained=lambda row: _cost(run, base(row)),
        )

    return _once(run, "table", work, force=False)


def _cost(run: Run, system: str) -> dict[str, Any] | None:
    """Steps, tokens and seconds of a generator's training, without those of the one that it starts from."""
    if system not in GENERATORS:
        return None
    result = run.result(stage_of(system))
    phases = [result, *([result["imitation"]] if "imitation" in result else [])]
    return {name: sum(phase[name] for phase in phases) for name in ("steps", "tokens", "seconds")}


def _fingerprint(run: Run, row: str) -> str:
    """What the lists of a row depend on besides the prepared tables."""
    config = run.config.model_dump(mode="json")
    parts: list[Any] = [row, config["seed"], config["samples"]["k_users"]]
    system = base(row)
    if row in SERVED:
        trained = {name: run.begun(stage_of(name)) for name in sorted(behind(run.config, [row]) | {CTR})}
        parts += [trained, *(config[name] for name in ("serving", "x2q", "decoding", "channels"))]
    elif system in GENERATORS:
        parts += [run.begun(stage_of(system)), config["decoding"]]
    elif system == CTR:
        parts.append(run.begun("ctr"))
    elif system.startswith("zero_shot:"):
        parts.append(config["channels"]["llms"].get(system.partition(":")[2]))
    else:
        parts.append(config["channels"].get(system))
        parts += [config["encoder"]] if system == "ebr" else []
    return json.dumps(parts)


def _trained(
    run: Run, stage: str, work: Callable[..., dict[str, Any]], *, resume: bool, force: bool
) -> dict[str, Any]:
    """A training, once, from its checkpoint where `resume` says so.

    Raises:
        UsageError: to be resumed, and begun with another config.
    """
    if resume:
        run.check_resume(stage)
    return _once(run, stage, partial(work, resume=resume), force=force, resume=resume)


def _once(
    run: Run, stage: str, work: Callable[[], dict[str, Any]], *, force: bool, resume: bool = False
) -> dict[str, Any]:
    """Run a stage, or read its result when it is finished with this config.

    Of several processes the first keeps the records; the others follow it through the work.
    """
    first = processes.rank() == 0
    if force and first:
        run.forget(stage)
    outdated = stage in run.outdated_models()
    if (first or not force) and run.finished(stage) and not outdated and (result := run.result(stage)):
        note(f"{stage}: finished earlier in {run.folder}")
        return result
    if not first:
        return work()
    if outdated:
        note(f"{stage}: a user whose rows it was trained with was erased; it is trained again")
    note(f"{stage}: begins")
    with run.stage(stage, resume=resume) as record, redirect_stdout(sys.stderr):
        result = work()
        record.update(result)
    return result


def run_missing(run: Run) -> None:
    """Every stage that the rows of the config need and that is not finished. Raises like `trainings`."""
    wanted = trainings(run.config)
    import_if_absent(run.config)
    if run.config.history.item_text == "generated":
        run_item_text(run, resume=run.started("item_text"), force=False)
    run_prepare(run, force=False)
    for stage in wanted:
        resume, system = run.started(stage), stage.partition(":")[2]
        if stage == "ctr":
            run_ctr(run, resume=resume, force=False)
        elif system in GRPO:
            run_grpo(run, system, resume=resume, force=False)
        else:
            run_sft(run, system, resume=resume, force=False)


def trainings(config: Config) -> list[str]:
    """The training stages behind the rows of the config, each after those that it needs.

    Raises:
        ConfigError: there is no row of that name, or none to compare to.
    """
    from aigq.evaluation.table import compared_to

    known = [*CHANNELS, *(f"zero_shot:{name}" for name in config.channels.llms), *GENERATORS]
    for row in config.evaluation.rows:
        if row not in SERVED and base(row) not in known:
            hint = suggestion(row, [*known, *SERVED])
            raise ConfigError(f"evaluation.rows: no row is called {row}; {hint}")
    compared_to(config, config.evaluation.rows)
    rows = {base(row) for row in config.evaluation.rows} | behind(config, config.evaluation.rows)
    wanted = rows | {GRPO[system] for system in rows if system in GRPO}
    if wanted & {*FROM_DIRECT} and config.think.from_direct:
        wanted.add("direct_il_sft")
    orders_labels = CTR in config.sft.ranker and wanted & {*SFT}
    if rows & {*GRPO} or orders_labels:
        wanted.add(CTR)
    order = (CTR, *SFT, *GRPO) if orders_labels else (*SFT, CTR, *GRPO)
    return [stage_of(system) for system in order if system in wanted]


def behind(config: Config, rows: Sequence[str]) -> set[str]:
    """The systems that write what the rows u2q, x2q and blend show."""
    weights = config.serving.weights
    on = {*rows} | {channel for channel, weight in weights.items() if weight > 0 and "blend" in rows}
    writers = {"u2q": config.serving.nearline.system, "x2q": config.x2q.system}
    return {base(system) for channel, system in writers.items() if channel in on}


def past_shop(run: Run) -> "PastShop":
    """The shop of a run at past moments, for the rows of the serving path."""
    from aigq.evaluation.past_shop import PastShop
    from aigq.generation import connect_training

    def generator() -> "RecallChannel":
        return channel_of(run, run.config.serving.nearline.system)

    def connect() -> Path:
        return connect_training(run, lambda: cast("ThinkGenerator", channel_of(run, run.config.x2q.system)))

    return PastShop(run.config, generator, connect, run.folder / "served", run.folder / "models" / CTR)


def served(run: Run, row: str, shop: "PastShop") -> "RecallChannel":
    """A row of the serving path."""
    from aigq.evaluation.served import Served

    return Served(row, shop, run.config.serving)


def need(run: Run, stage: str) -> None:
    """Raise StageError unless the stage is finished; the message names the command that does it."""
    run.check(stage)
    if not run.finished(stage):
        raise StageError(f"{run.folder} has no finished `{stage}`; {_what_to_run(run, stage)}")


def _need_current(run: Run, stage: str) -> None:
    """Like `need`; StageError also where the model was trained with rows of a user who was erased since."""
    need(run, stage)
    if stage in run.outdated_models():
        raise StageError(
            f"`{stage}` in {run.folder} was trained with rows of a user who was erased; "
            f"{_what_to_run(run, stage)}"
        )


def _what_to_run(run: Run, stage: str) -> str:
    """What to do for a stage: its command, and `aigq table` where the rows of the config need it."""
    texts = ["item_text"] if run.config.history.item_text == "generated" else []
    of_table = stage in ("prepare", *texts, *trainings(run.config))
    return f"run `{command(stage)}` first{', or `aigq table` for all stages' if of_table else ''}"


def channel_of(run: Run, row: str) -> "RecallChannel":
    """The channel or generator behind a row of the table, not fitted."""
    name = base(row)
    if name in GENERATORS:
        from aigq.recall.direct import DirectGenerator
        from aigq.recall.think import ThinkGenerator
        from aigq.training.sft import variant

        kind = ThinkGenerator if thinks(name) else DirectGenerator
        return kind(variant(run.config, name), run.folder, name, only_new=name != row)
    from aigq.recall import build_channel
    from aigq.recall.only_new import OnlyNew

    channel = build_channel(name, run.config, run.folder)
    return channel if name == row else OnlyNew(channel)
