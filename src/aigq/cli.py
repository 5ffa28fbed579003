"""The command line: one verb per stage, each calling the function of that name.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. Everything heavy is imported inside a verb, so
that `aigq --help` answers at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

from aigq import __version__
from aigq.doctor import TELEMETRY_OFF
from aigq.errors import AigqError, UsageError, is_disk_full
from aigq.progress import note
from aigq.runs import RUNS, Run, resolve
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
from aigq.systems import CTR, GENERATORS, GRPO, SFT, stage_of

if TYPE_CHECKING:
    from aigq.prepared import Moment, Prepared

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
RESUMABLE: Final = frozenset({"demo", "table", "train"})
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

Set = Annotated[
    tuple[str, ...],
    Parameter(help="Change one config key: --set sft.epochs=3. Repeatable.", show_default=False),
]
Json = Annotated[bool, Parameter(help="Print one JSON object instead of a table.")]
Resume = Annotated[bool, Parameter(help="Continue an interrupted training from its last checkpoint.")]
Force = Annotated[bool, Parameter(help="Redo the stage, and forget what was made from it.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """The options of every verb that works on a run."""

    config: Annotated[
        Path | None,
        Parameter(help="YAML file of the run. Default: the one that an earlier command left in --run."),
    ] = None
    run: Annotated[Path | None, Parameter(help="Run folder. Default: runs/NAME for NAME.yaml.")] = None
    set: Set = ()
    json: Json = False

    def open(self) -> Run:
        """The run folder and its config. Raises UsageError when either is wrong."""
        config, folder = resolve(self.config, self.run, self.set)
        return Run.open(folder, config)


_COMMON: Final = Common()


@app.command(name="import")
def import_(
    source: Annotated[
        str, Parameter(help="Log format: journey, bestbuy, online_retail, kuaisearch, ubi, ga4, files.")
    ],
    path: Annotated[Path | None, Parameter(help="File or folder; not needed for journey, a package.")] = None,
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables.")],
    columns: Annotated[Path | None, Parameter(help="Column map (YAML) of the source `files`.")] = None,
    json: Json = False,
) -> int:
    """Read a shop's log into the tables events, items, users and rejected."""
    from aigq.sources import import_source, render

    column_map = _read_columns(columns) if columns is not None else None
    with redirect_stdout(sys.stderr):
        summary = import_source(source, path, out, columns=column_map)
    _show(summary.to_dict(), render(summary), as_json=json)
    return DONE


@app.command
def prepare(*, common: Common = _COMMON, force: Force = False) -> int:
    """Turn the tables into histories, causal counts and samples, split by time."""
    run = common.open()
    import_if_absent(run.config)
    _show(run_prepare(run, force=force), None, as_json=common.json)
    return DONE


@app.command
def replay(
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables with simulated hint events.")],
    common: Common = _COMMON,
) -> int:
    """Show hints to the shoppers of a log and simulate their clicks, for logs without exposures."""
    run = common.open()
    import_if_absent(run.config)
    run_prepare(run, force=False)
    from aigq.experiments.replay import replay as work

    with redirect_stdout(sys.stderr):
        summary = work(run.config, run.folder, out)
    _show(summary, None, as_json=common.json)
    return DONE


@train.command(name="sft")
def train_sft(
    *,
    common: Common = _COMMON,
    system: Annotated[
        str, Parameter(help="direct_il_sft or think_il_sft; direct_sft or think_sft: the plain rows.")
    ] = "direct_il_sft",
    resume: Resume = False,
    force: Force = False,
) -> int:
    """Train a generator on lists of queries (IL-SFT): Direct writes them at once, Think by interest."""
    if system not in SFT:
        raise UsageError(f"unknown system {system}; known: {', '.join(SFT)}")
    run = common.open()
    need(run, "prepare")
    _show(run_sft(run, system, resume=resume, force=force), None, as_json=common.json)
    return DONE


@train.command(name="grpo")
def train_grpo(
    *,
    common: Common = _COMMON,
    system: Annotated[
        str,
        Parameter(help="direct_il_grpo or think_il_grpo; direct_grpo, think_grpo: credit per list alone."),
    ] = "direct_il_grpo",
    resume: Resume = False,
    force: Force = False,
) -> int:
    """Train the generator on with rewards: the CTR model's, and those of METHOD section 5 (IL-GRPO)."""
    if system not in GRPO:
        raise UsageError(f"unknown system {system}; known: {', '.join(GRPO)}")
    run = common.open()
    need(run, "prepare")
    need(run, stage_of(GRPO[system]))
    need(run, "ctr")
    _show(run_grpo(run, system, resume=resume, force=force), None, as_json=common.json)
    return DONE


@train.command(name="ctr")
def train_ctr(*, common: Common = _COMMON, resume: Resume = False, force: Force = False) -> int:
    """Train the click model, the reward of RL, and judge it on later days beside LightGBM."""
    run = common.open()
    need(run, "prepare")
    _show(run_ctr(run, resume=resume, force=force), None, as_json=common.json)
    return DONE


@app.command
def evaluate(*, common: Common = _COMMON) -> int:
    """Measure the rows of a run whose stages are finished; trains no generator."""
    run = common.open()
    need(run, "prepare")
    for stage in trainings(run.config):
        need(run, stage)
    _print_table(run, run_table(run), as_json=common.json)
    return DONE


@app.command
def table(*, common: Common = _COMMON, resume: Resume = False) -> int:
    """Run every stage that is missing, then measure all rows: metrics.json, report.html and the table.

    An interrupted training is continued, with or without --resume.
    """
    run = common.open()
    run_missing(run)
    _print_table(run, run_table(run), as_json=common.json)
    return DONE


@generate.command(name="u2q")
def generate_u2q(
    *,
    users: Annotated[str, Parameter(help="User ids, separated by commas.")],
    common: Common = _COMMON,
    system: Annotated[
        str, Parameter(help="A row of the table: direct_il_sft, popular, ...")
    ] = "direct_il_sft",
    n: Annotated[int, Parameter(name=["--count", "-n"], help="Hints per user.")] = 10,
) -> int:
    """Write hints for these users as of the day after the log ends, with a reason for each."""
    ids = [user.strip() for user in users.split(",") if user.strip()]
    if not ids or n < 1:
        raise UsageError("give --users a,b,c with at least one id, and --count 1 or more")
    run = common.open()
    need(run, "prepare")
    if system in GENERATORS or system == CTR:
        need(run, stage_of(system))
    _print_hints(_hints(run, ids, system, n), as_json=common.json)
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
    resume: Resume = False,
    json: Json = False,
) -> int:
    """The main job on an example log: import, prepare, train, the table, and hints for three households."""
    overrides = (*(_FROM_SCRATCH if from_scratch else ()), *set)
    folder = run or RUNS / ("demo-from-scratch" if from_scratch else "demo")
    opened = Common(config=config, run=folder, set=overrides).open()
    run_missing(opened)
    result = run_table(opened)
    hints = _hints(opened, _example_users(opened), "direct_il_sft", 10)
    report = folder / "report.html"
    if json:
        _show({"table": result, "hints": hints, "report": str(report)}, None, as_json=True)
        return DONE
    _print_table(opened, result, as_json=False, report=False)
    _print_hints(hints, as_json=False)
    print(f"report: {report}")
    return DONE


@app.command
def doctor(
    *,
    run: Annotated[Path, Parameter(help="Folder that runs will be written to.")] = RUNS,
    json: Json = False,
) -> int:
    """Check Python, packages, processors, GPU, disk and settings."""
    from aigq.doctor import examine, render, to_dict

    checks = examine(run)
    _show(to_dict(checks), render(checks), as_json=json)
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
    except CycloptsError as error:
        note(f"aigq: {' '.join(str(error).split())} See aigq --help.")
        return WRONG_USE
    except AigqError as error:
        if debug:
            raise
        note(f"aigq: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        note(f"aigq: interrupted; {_how_to_resume(tokens)}")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if debug or (error.name or "aigq").startswith("aigq"):
            raise
        note(
            f"aigq: the package {error.name} is not installed; pip install 'aigq[demo]', or see `aigq doctor`"
        )
        return FAILED
    except Exception as error:
        if debug or not is_disk_full(error):
            raise
        note(
            "aigq: the disk is full (or that of temporary files, see TMPDIR); free some space and run the "
            "same command again, finished stages are kept"
        )
        return FAILED
    return code if isinstance(code, int) else DONE


def _how_to_resume(tokens: list[str]) -> str:
    resumable = bool(tokens) and tokens[0] in RESUMABLE
    extra = ["--resume"] if resumable and "--resume" not in tokens else []
    command = " ".join(["aigq", *tokens, *extra])
    return f"finished stages are kept; continue with: {command}"


# --- hints for named users ---


def _hints(run: Run, users: Sequence[str], system: str, n: int) -> dict[str, Any]:
    from aigq.prepared import Prepared

    prepared = Prepared.load(run.folder / "prepared")
    moments = [_after_the_log(prepared, user, number) for number, user in enumerate(users)]
    with redirect_stdout(sys.stderr):
        channel = channel_of(run, system)
        channel.fit(prepared)
        lists = channel.recommend(moments, n)
    return {
        "system": system,
        "users": [
            {
                "user_id": moment.user_id,
                "as_of": str(moment.cut.astype("datetime64[D]")),
                "behaviours": moment.history.num_rows,
                "latest": moment.history["text"].to_pylist()[-5:],
                "hints": [
                    {"query": h.query, "score": round(float(h.score), 6), "reason": h.reason} for h in hints
                ],
            }
            for moment, hints in zip(moments, lists, strict=True)
        ],
    }


def _after_the_log(prepared: "Prepared", user: str, number: int) -> "Moment":
    """The user on the first day after the log, everything that they ever did as history."""
    import numpy as np
    import pyarrow.compute as pc

    from aigq.prepared import Moment

    day = int(pc.max(prepared.behaviours["day"]).as_py()) + 1
    rows = np.flatnonzero(pc.equal(prepared.behaviours["user_id"], user).to_numpy(zero_copy_only=False))
    history = prepared.behaviours.slice(rows[0], len(rows)) if len(rows) else prepared.behaviours.slice(0, 0)
    return Moment(-1 - number, user, np.datetime64(day, "D").astype("datetime64[us]"), day, history)


def _example_users(run: Run) -> list[str]:
    """Three users of the test: with a short, a usual and a long history."""
    from aigq.prepared import Prepared

    samples = Prepared.load(run.folder / "prepared").split("test").sort_by([("n_before", "ascending")])
    lengths = dict(zip(samples["user_id"].to_pylist(), samples["n_before"].to_pylist(), strict=True))
    users = sorted(lengths, key=lambda user: (lengths[user], user))
    return list(dict.fromkeys(users[int(share * (len(users) - 1))] for share in (0.1, 0.5, 0.9)))


def _read_columns(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no column map at {path}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold `column: name` lines")
    return content


# --- output ---


def _show(result: dict[str, Any], rendering: Any, *, as_json: bool) -> None:
    """One result on stdout: JSON, a rich rendering, or key and value lines."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
        return
    if rendering is None:
        for key, value in result.items():
            print(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}")
        return
    from rich.console import Console

    Console().print(rendering)


def _print_table(run: Run, result: dict[str, Any], *, as_json: bool, report: bool = True) -> None:
    if as_json:
        _show(result, None, as_json=True)
        return
    from aigq.evaluation.render import show

    show(result)
    if report:
        print(f"report: {run.folder / 'report.html'}")


def _print_hints(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _show(result, None, as_json=True)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for user in result["users"]:
        known = f"{user['behaviours']} behaviours" if user["behaviours"] else "not in the log: context only"
        print(f"{user['user_id']} on {user['as_of']} ({known}; {result['system']})")
        grid = Table(box=None)
        for column in ("", "hint", "why"):
            grid.add_column(column, overflow="fold")
        for place, hint in enumerate(user["hints"], start=1):
            grid.add_row(str(place), escape(hint["query"]), escape(hint["reason"]))
        Console().print(grid)


if __name__ == "__main__":
    sys.exit(main())
