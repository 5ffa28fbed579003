"""The command line: one verb per stage, each calling the function of that name.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. Everything heavy is imported inside a verb, so
that `aigq --help` answers at once.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from logging import ERROR
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

from aigq import __version__
from aigq.cli_common import (
    COMMON,
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_USE,
    Common,
    Force,
    Json,
    Resume,
    Set,
    print_hints,
    print_table,
    show,
)
from aigq.doctor import TELEMETRY_OFF
from aigq.errors import AigqError, UsageError, is_disk_full
from aigq.progress import note
from aigq.runs import RUNS, Run
from aigq.stages import (
    channel_of,
    import_if_absent,
    need,
    run_ctr,
    run_grpo,
    run_missing,
    run_prepare,
    run_sft,
    run_table,
    trainings,
)
from aigq.systems import CTR, GENERATORS, GRPO, SFT, stage_of, thinks

DEMO_RECIPE: Final = Path("recipes/demo.yaml")
_FROM_SCRATCH: Final = (
    "generator.start=null",
    "sft.imitation_learning_rate=0.002",  # a start is only trained on, a new model has all to learn
    "sft.imitation_max_steps=600",
)

app = App(
    name="aigq",
    help="Pre-search query recommendation, learned from a shop's own logs.",
    help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. AIGQ_DEBUG=1: tracebacks.",
    version=__version__,
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=()),
)
train = App(name="train", help="Train one model of the run.")
generate = App(name="generate", help="Write hints with a trained model.")
app.command(train)
app.command(generate)
for verb, summary in {
    "publish": "Load the run's tables into the store, as a new version.",
    "serve": "Serve hints over HTTP and take events in.",
    "nearline": "Write new lists for shoppers soon after they did something that matters.",
}.items():
    app.command(f"aigq.cli_serving:{verb}", name=verb, help=summary)  # imported when it is called
train.command(
    "aigq.cli_items:train_item_text",
    name="item-text",
    help="Train the model that says an item in shoppers' words, and write every item.",
)
generate.command(
    "aigq.cli_items:generate_item_text",
    name="item-text",
    help="Write texts for items that are new or have changed.",
)

app.command(
    "aigq.cli_import:import_",
    name="import",
    help="Read a shop's log into the tables events, items, users and rejected.",
)
app.command(
    "aigq.cli_erase:erase_user",
    name="erase-user",
    help="Remove a user from tables, run, store and log, and scan for the id.",
)


@app.command
def prepare(*, common: Common = COMMON, force: Force = False) -> int:
    """Turn the tables into histories, causal counts and samples, split by time."""
    run = common.open()
    import_if_absent(run.config)
    show(run_prepare(run, force=force), None, as_json=common.json)
    return DONE


@app.command
def replay(
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables with simulated hint events.")],
    common: Common = COMMON,
) -> int:
    """Show hints to the shoppers of a log and simulate their clicks, for logs without exposures."""
    run = common.open()
    import_if_absent(run.config)
    run_prepare(run, force=False)
    from aigq.experiments.replay import replay as work

    with redirect_stdout(sys.stderr):
        summary = work(run.config, run.folder, out)
    show(summary, None, as_json=common.json)
    return DONE


@train.command(name="sft")
def train_sft(
    *,
    common: Common = COMMON,
    system: Annotated[
        str,
        Parameter(
            help="direct_il_sft or think_il_sft; direct_sft or think_sft: the plain rows; "
            "direct_sft_ranked or think_sft_ranked: a step of the ablation ladder between the two."
        ),
    ] = "direct_il_sft",
    resume: Resume = False,
    force: Force = False,
) -> int:
    """Train a generator on lists of queries (IL-SFT): Direct writes them at once, Think by interest."""
    if system not in SFT:
        raise UsageError(f"unknown system {system}; known: {', '.join(SFT)}")
    run = common.open()
    need(run, "prepare")
    show(run_sft(run, system, resume=resume, force=force), None, as_json=common.json)
    return DONE


@train.command(name="grpo")
def train_grpo(
    *,
    common: Common = COMMON,
    system: Annotated[
        str,
        Parameter(help="direct_il_grpo or think_il_grpo; direct_grpo, think_grpo: credit per list alone."),
    ] = "direct_il_grpo",
    resume: Resume = False,
    force: Force = False,
) -> int:
    """Train the generator on with rewards: the CTR model's, and those of method.md section 5 (IL-GRPO)."""
    if system not in GRPO:
        raise UsageError(f"unknown system {system}; known: {', '.join(GRPO)}")
    run = common.open()
    need(run, "prepare")
    show(run_grpo(run, system, resume=resume, force=force), None, as_json=common.json)
    return DONE


@train.command(name="ctr")
def train_ctr(*, common: Common = COMMON, resume: Resume = False, force: Force = False) -> int:
    """Train the click model, the reward of RL, and judge it on later days beside LightGBM."""
    run = common.open()
    need(run, "prepare")
    show(run_ctr(run, resume=resume, force=force), None, as_json=common.json)
    return DONE


@app.command
def evaluate(*, common: Common = COMMON) -> int:
    """Measure the rows of a run whose stages are finished; trains no generator."""
    run = common.open()
    need(run, "prepare")
    for stage in trainings(run.config):
        need(run, stage)
    print_table(run, run_table(run), as_json=common.json)
    return DONE


@app.command
def table(*, common: Common = COMMON) -> int:
    """Run every stage that is missing, then measure all rows: metrics.json, report.html and the table.

    An interrupted training is continued.
    """
    run = common.open()
    run_missing(run)
    print_table(run, run_table(run), as_json=common.json)
    return DONE


@generate.command(name="u2q")
def generate_u2q(
    *,
    users: Annotated[
        str | None, Parameter(help="User ids, separated by commas. Default: everybody, into RUN/tables.")
    ] = None,
    common: Common = COMMON,
    system: Annotated[
        str, Parameter(help="A row of the table: direct_il_sft, popular, ...")
    ] = "direct_il_sft",
    n: Annotated[int, Parameter(name=["--count", "-n"], help="Hints per user.")] = 10,
) -> int:
    """Write hints as of the day after the log ends, with a reason for each.

    Without --users: RUN/tables/u2q.parquet for every known user, which `aigq publish` loads. An interrupted
    one goes on when it is called again.
    """
    ids = [user.strip() for user in users.split(",") if user.strip()] if users is not None else None
    if ids == [] or n < 1:
        raise UsageError("give --users a,b,c with at least one id, and --count 1 or more")
    run = common.open()
    need(run, "prepare")
    if system in GENERATORS or system == CTR:
        need(run, stage_of(system))
    if ids is not None:
        print_hints(_hints(run, system, ids, n), as_json=common.json)
        return DONE
    from aigq.generation import backfill

    with redirect_stdout(sys.stderr):
        result = backfill(run, channel_of(run, system), system, n)
    show(result, None, as_json=common.json)
    return DONE


@generate.command(name="x2q")
def generate_x2q(
    *,
    common: Common = COMMON,
    system: Annotated[
        str | None, Parameter(help="A Think generator of the run. Default: x2q.system.")
    ] = None,
    n: Annotated[int, Parameter(name=["--count", "-n"], help="Queries that Think writes per user.")] = 30,
) -> int:
    """Think over every known user, then RUN/tables/x2q.parquet: queries for items, queries and categories.

    `aigq publish` loads it. An interrupted one goes on when it is called again.
    """
    run = common.open()
    system = system or run.config.x2q.system
    if not thinks(system) or n < 1:
        raise UsageError("give --system a Think generator, such as think_il_sft, and --count 1 or more")
    need(run, "prepare")
    need(run, stage_of(system))
    from aigq.generation import connect

    with redirect_stdout(sys.stderr):
        thinker: Any = channel_of(run, system)
        result = connect(run, thinker, system, n)
    show(result, None, as_json=common.json)
    return DONE


@app.command
def demo(
    *,
    config: Annotated[Path, Parameter(help="The recipe.")] = DEMO_RECIPE,
    run: Annotated[Path | None, Parameter(help="Run folder. Default: runs/demo.")] = None,
    set: Set = (),
    from_scratch: Annotated[
        bool, Parameter(help="Build the model anew instead of starting from the starter.")
    ] = False,
    json: Json = False,
) -> int:
    """The main job on an example log: import, prepare, train, the table, and hints for three households."""
    overrides = (*(_FROM_SCRATCH if from_scratch else ()), *set)
    folder = run or RUNS / ("demo-from-scratch" if from_scratch else "demo")
    opened = Common(config=config, run=folder, set=overrides).open()
    run_missing(opened)
    result = run_table(opened)
    from aigq.generation import example_users

    hints = _hints(opened, opened.config.evaluation.rows[-1], example_users(opened), 10)
    report = folder / "report.html"
    if json:
        show({"table": result, "hints": hints, "report": str(report)}, None, as_json=True)
        return DONE
    print_table(opened, result, as_json=False, report=False)
    print_hints(hints, as_json=False)
    print(f"report: {report}")
    print(f"storefront: aigq publish --run {folder} && aigq serve --run {folder} --demo")
    return DONE


@app.command
def doctor(
    *,
    run: Annotated[Path, Parameter(help="Folder that runs will be written to.")] = RUNS,
    store: Annotated[
        str | None, Parameter(help="Report on a store instead: keys and bytes by family.")
    ] = None,
    events: Annotated[
        str | None,
        Parameter(
            help="Report on an event log instead: what waits for the worker, what it set aside and why."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Check Python, packages, processors, GPU, disk and settings, or a store and an event log."""
    from aigq.doctor import examine, render, to_dict

    if store is None and events is None:
        checks = examine(run)
    else:
        from aigq.serving.report import events_report, report

        checks = report(store) if store is not None else []
        checks += events_report(events) if events is not None else []
    show(to_dict(checks), render(checks), as_json=json)
    return FAILED if any(check.status == "failed" for check in checks) else DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own bars; ours print lines instead
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("AIGQ_DEBUG") == "1"
    try:
        code = app(tokens)
        sys.stdout.flush()
    except CycloptsError as error:
        note(f"aigq: {' '.join(str(error).split())} See aigq --help.", ERROR)
        return WRONG_USE
    except AigqError as error:
        if debug:
            raise
        note(f"aigq: {error}", ERROR)
        return error.exit_code
    except KeyboardInterrupt:
        note(f"aigq: interrupted; {_how_to_resume(tokens)}", ERROR)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if debug or (error.name or "aigq").startswith("aigq"):
            raise
        from aigq.doctor import how_to_install

        missing = error.name or ""
        note(f"aigq: the package {missing} is not installed; {how_to_install(missing)}", ERROR)
        return FAILED
    except BrokenPipeError:  # `aigq ... | head`
        if debug:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written
        note("aigq: nobody reads the output any more; finished stages are kept", ERROR)
        return FAILED
    except Exception as error:
        if debug or not is_disk_full(error):
            raise
        note(
            "aigq: the disk is full (or that of temporary files, see TMPDIR); free some space and run the "
            "same command again, finished stages are kept",
            ERROR,
        )
        return FAILED
    return code if isinstance(code, int) else DONE


def _how_to_resume(tokens: list[str]) -> str:
    extra = ["--resume"] if tokens[:1] == ["train"] and "--resume" not in tokens else []
    command = " ".join(["aigq", *tokens, *extra])
    return f"finished stages are kept; continue with: {command}"


def _hints(run: Run, system: str, users: Sequence[str], n: int) -> dict[str, Any]:
    from aigq.generation import hints_for

    with redirect_stdout(sys.stderr):
        return hints_for(run, channel_of(run, system), system, users, n)


if __name__ == "__main__":
    sys.exit(main())
