"""Every documented command, run as a user would, on a small made-up log."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
import torch
import yaml

from aigq import cli
from aigq import config as configs
from aigq.cli import main
from aigq.cli_common import DONE, FAILED, INTERRUPTED, WRONG_USE
from aigq.errors import StageError, UsageError
from aigq.runs import Run

GAMES = [
    "zelda",
    "mario kart",
    "halo",
    "fifa 12",
    "forza",
    "gears of war",
    "batman",
    "portal 2",
    "skyrim",
    "rage",
]
SMALL = {
    "split": {"validation_from": "2011-09-05", "test_from": "2011-09-15"},
    "samples": {"unit": "next_query", "k_users": 2, "list_length": 5},
    "prompt": {"budget_tokens": 96, "max_behaviours": 8, "favourites": 6, "together": True},
    "generator": {
        "vocab_size": 300,
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "intermediate_size": 64,
        "init_from_encoder": False,
    },
    "sft": {
        "imitation_epochs": 0.5,
        "imitation_extra": 20,
        "epochs": 1,
        "batch_size": 32,
        "tail": 5,
        "eval_every": 5,
        "eval_samples": 16,
    },
    "channels": {"ranker": {"trees": 10, "leaves": 4, "min_pairs_in_leaf": 5}},
    "evaluation": {
        "rows": ["popular", "popular:new", "personal", "coclick", "direct_il_sft:new", "direct_il_sft"],
        "ks": [3, 5],
        "bootstrap": 100,
        "report_users": 2,
    },
}


def write_log(path):
    """Seventy shoppers who come back to their few games, in the format of the source `bestbuy`."""
    draw = random.Random(0)
    rows = []
    for user in range(70):
        favourites = draw.sample(GAMES, 3)
        moment = datetime(2011, 8, 11) + timedelta(hours=user)
        while moment < datetime(2011, 9, 25):
            game = draw.choice(favourites)
            sku = 1000 + GAMES.index(game)
            searched = moment.isoformat(sep=" ")
            clicked = (moment + timedelta(seconds=40)).isoformat(sep=" ")
            rows.append((f"user{user}", sku, f"abcat{sku % 3}", game, clicked, searched))
            moment += timedelta(days=draw.uniform(1, 9))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "sku", "category", "query", "click_time", "query_time"))
        writer.writerows(sorted(rows, key=lambda row: row[4]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log, its config and, after the first test that asks for it, a finished run."""
    folder = tmp_path_factory.mktemp("shop")
    write_log(folder / "searches.csv")
    data = {"tables": str(folder / "tables"), "source": "bestbuy", "path": str(folder / "searches.csv")}
    (folder / "shop.yaml").write_text(yaml.safe_dump({"name": "shop", "data": data, **SMALL}))
    return folder


@pytest.fixture
def aigq(shop, capsys, monkeypatch):
    """Run a command in the shop's folder: exit code, stdout, stderr."""
    monkeypatch.chdir(shop)
    monkeypatch.delenv("AIGQ_DEBUG", raising=False)

    def run(*arguments):
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def trained(aigq, shop):
    """A finished run in runs/shop; the first test that asks for it makes it."""
    code, _, err = aigq("table", "--config", "shop.yaml")
    assert code == DONE, err
    return shop / "runs" / "shop"


# --- wrong use ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel"], 'Did you mean "table"'),
        (["train", "nothing"], "Unknown command"),
        (["prepare", "--confg", "x"], "Did you mean --config"),
        (["prepare", "--config"], "requires an argument"),
        (["import", "bestbuy", "searches.csv"], "--out"),
        (["prepare"], "--config FILE"),
        (["prepare", "--config", "none.yaml"], "no config file at none.yaml"),
        (["prepare", "--run", "nowhere"], "nowhere has no config.yaml"),
        (["prepare", "--config", "shop.yaml", "--set", "sft.epoch=2"], "did you mean epochs?"),
        (["prepare", "--config", "shop.yaml", "--run", "shop.yaml"], "is a file"),
        (["import", "nosuch", "searches.csv", "--out", "t"], "unknown source"),
        (["import", "bestbuy", "none.csv", "--out", "t"], "none.csv"),
        (["train", "sft", "--config", "shop.yaml", "--run", "runs/empty", "--system", "x"], "direct_il_sft"),
        (["generate", "u2q", "--config", "shop.yaml", "--users", ","], "--users"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(aigq, arguments, message):
    code, out, err = aigq(*arguments)
    assert (code, out) == (WRONG_USE, "")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_config_without_tables_or_source_says_how_to_import(aigq):
    code, _, err = aigq(
        "prepare",
        "--config",
        "shop.yaml",
        "--run",
        "runs/x",
        "--set",
        "data.tables=absent",
        "--set",
        "data.source=null",
    )
    assert code == WRONG_USE
    assert "aigq import" in err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "sft"], "aigq prepare"),
        (["train", "ctr"], "aigq prepare"),
        (["evaluate"], "aigq prepare"),
        (["generate", "u2q", "--users", "a"], "aigq prepare"),
    ],
)
def test_a_stage_names_the_one_that_it_needs(aigq, arguments, command):
    code, _, err = aigq(*arguments, "--config", "shop.yaml", "--run", "runs/empty")
    assert code == FAILED
    assert f"run `{command}` first, or `aigq table` for all stages" in err


def test_a_stage_that_no_row_needs_is_not_left_to_the_table(aigq, trained):
    code, _, err = aigq("generate", "x2q", "--run", "runs/shop")
    assert code == FAILED
    assert err.endswith("run `aigq train sft --system think_il_sft` first\n")


# --- the commands, in the order of the work ---


def test_import(aigq, shop):
    code, out, _ = aigq("import", "bestbuy", "searches.csv", "--out", "imported", "--json")
    summary = json.loads(out)
    assert code == DONE
    assert summary["users"] == 70
    assert (shop / "imported" / "events.parquet").exists()


def test_import_prints_a_summary(aigq):
    code, out, _ = aigq("import", "bestbuy", "searches.csv", "--out", "imported-again")
    assert code == DONE
    assert "users" in out


def test_import_of_any_file_with_a_column_map(aigq, shop):
    (shop / "own.csv").write_text(
        "visitor,time,what,q\n1,2024-01-01 10:00,s,red shoes\n2,2024-01-02 10:00,s,hat\n"
    )
    column_map = {
        "user_id": "visitor",
        "ts": "time",
        "action": "what",
        "query": "q",
        "actions": {"s": "search"},
    }
    (shop / "columns.yaml").write_text(yaml.safe_dump(column_map))
    code, out, err = aigq("import", "files", "own.csv", "--columns", "columns.yaml", "--out", "own", "--json")
    assert code == DONE, err
    assert json.loads(out)["events"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must hold"),
        ("a: [", "is not YAML"),
        ("ts: 2026-13-16", "wrong.yaml is not YAML: month must be in"),
        (None, "no column map"),
    ],
)
def test_a_wrong_column_map_is_wrong_use(aigq, shop, content, message):
    (shop / "own.csv").write_text("visitor,time\n")
    if content is not None:
        (shop / "wrong.yaml").write_text(content)
    path = "wrong.yaml" if content is not None else "absent.yaml"
    code, _, err = aigq("import", "files", "own.csv", "--columns", path, "--out", "wrong")
    assert code == WRONG_USE
    assert message in err


def test_table_runs_all_stages_and_leaves_a_run_folder(aigq, trained):
    code, out, _ = aigq("table", "--config", "shop.yaml")
    assert code == DONE
    assert "popular" in out
    assert "report.html" in out
    left = {path.name for path in trained.iterdir()}
    assert {
        "config.yaml",
        "versions.json",
        "metrics.json",
        "report.html",
        "prepared",
        "lists",
        "models",
    } <= left
    report = (trained / "report.html").read_text()
    for training in ("direct_il_sft: imitation of the ranker", "direct_il_sft"):
        assert "Query HR on validation" in report.split(f"<h3>{training}</h3>")[1].split("<h3>")[0]
    versions = json.loads((trained / "versions.json").read_text())
    assert {"python", "packages", "git"} <= set(versions)


def test_metrics_json_has_the_rows_of_the_contract(aigq, trained):
    code, out, _ = aigq("table", "--run", str(trained), "--json")
    result = json.loads(out)
    assert code == DONE
    assert result == json.loads((trained / "metrics.json").read_text())
    assert [row["system"] for row in result["rows"]] == SMALL["evaluation"]["rows"]
    assert (result["dataset"], result["mode"], result["queries"], result["k"]) == (
        "shop",
        "bootstrap",
        "typed",
        5,
    )
    keys = {
        "query_hr",
        "query_hr_any",
        "cate_hr",
        "sem_sim",
        "unique_cates",
        "novel_query_hr",
        "users",
        "ci95",
    }
    assert all(keys <= set(row) for row in result["rows"])
    cost = {row["system"]: row["trained"] for row in result["rows"]}
    assert cost["popular"] is None
    assert min(cost["direct_il_sft"].values()) > 0
    assert cost["direct_il_sft:new"] == cost["direct_il_sft"]


def test_the_second_time_nothing_is_done_again(aigq, trained):
    before = (trained / "stages.json").read_text()
    started = time.monotonic()
    code, _, err = aigq("table", "--config", "shop.yaml")
    assert code == DONE
    assert time.monotonic() - started < 10
    assert (trained / "stages.json").read_text() == before
    assert "begins" not in err


def test_stages_one_by_one(aigq, shop):
    run = ("--config", "shop.yaml", "--run", "runs/steps")
    assert aigq("prepare", *run, "--json")[0] == DONE
    code, out, err = aigq("train", "sft", *run, "--json")
    assert code == DONE, err
    assert json.loads(out)["steps"] > 0
    code, out, err = aigq("evaluate", *run, "--json")
    assert code == DONE, err
    assert len(json.loads(out)["rows"]) == len(SMALL["evaluation"]["rows"])


def test_ctr_is_trained_once_and_orders_a_row(aigq, shop):
    run = ("--config", "shop.yaml", "--run", "runs/ctr", "--set", "evaluation.rows=[popular, ctr]")
    run += ("--set", "ctr.epochs=1", "--set", "ctr.eval_every=20")
    assert aigq("prepare", *run)[0] == DONE
    code, _, err = aigq("evaluate", *run)
    assert code == FAILED
    assert "run `aigq train ctr` first" in err
    code, out, err = aigq("train", "ctr", *run, "--json")
    assert code == DONE, err
    summary = json.loads(out)
    assert set(summary["later_days"]) == set(summary["later_days_lightgbm"])
    assert json.loads(aigq("train", "ctr", *run, "--json")[1]) == summary
    code, _, err = aigq("train", "ctr", *run, "--set", "ctr.dim=16", "--resume")
    assert code == WRONG_USE
    assert "ctr.dim=32" in err
    code, out, err = aigq("evaluate", *run, "--json")
    assert code == DONE, err
    assert [row["system"] for row in json.loads(out)["rows"]] == ["popular", "ctr"]
    code, out, err = aigq(
        "generate", "u2q", "--run", "runs/ctr", "--system", "ctr", "--users", "u1", "--json"
    )
    assert code == DONE, err


def test_grpo_trains_on_from_il_sft_and_refuses_a_ctr_model_that_knows_nothing(aigq, shop):
    rewards = ("grpo.steps=2", "grpo.prompts=4", "grpo.group=2", "grpo.eval_every=1", "ctr.epochs=1")
    run = [
        "--config",
        "shop.yaml",
        "--run",
        "runs/grpo",
        "--set",
        "evaluation.rows=[direct_grpo, direct_il_grpo]",
    ]
    run += [part for change in rewards for part in ("--set", change)]
    assert aigq("prepare", *run)[0] == DONE
    code, _, err = aigq("train", "grpo", *run)
    assert code == FAILED
    assert "run `aigq train sft --system direct_il_sft` first" in err
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert aigq("train", "sft", *run)[0] == DONE
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # its gradients may be NaN, see training/loop.py
    assert "run `aigq train ctr` first" in aigq("train", "grpo", *run)[2]
    strict = ("--set", "ctr.auc_floor=0.999")
    assert aigq("train", "ctr", *run, *strict)[0] == DONE
    code, _, err = aigq("train", "grpo", *run, *strict)
    assert code == FAILED
    assert "0.999" in err
    assert aigq("train", "ctr", *run, "--set", "ctr.auc_floor=0.5", "--force")[0] == DONE
    code, out, err = aigq("table", *run, "--set", "ctr.auc_floor=0.5", "--json")
    assert code == DONE, err
    assert [row["system"] for row in json.loads(out)["rows"]] == ["direct_grpo", "direct_il_grpo"]
    log = (shop / "runs/grpo/models/direct_il_grpo/training/log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, log) if "reward" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert {"ctr", "rouge", "entropy", "no_signal", "categories"} <= set(steps[0])
    assert len(steps[0]["reward_by_slot"]) == SMALL["samples"]["list_length"]
    report = (shop / "runs/grpo/report.html").read_text(encoding="utf-8")
    assert f"reward of a query: reward from {steps[0]['reward']:.4f} to {steps[1]['reward']:.4f}" in report


def test_grpo_under_trl(aigq, shop):
    rewards = ("grpo.trainer=trl", "grpo.steps=1", "grpo.prompts=4", "grpo.prompts_at_once=4", "grpo.group=2")
    run = ["--config", "shop.yaml", "--run", "runs/grpo", "--set", "evaluation.rows=[direct_il_grpo]"]
    run += [part for change in (*rewards, "ctr.epochs=1", "ctr.auc_floor=0.5") for part in ("--set", change)]
    for stage in (["prepare"], ["train", "sft"], ["train", "ctr"]):  # finished where the test above has run
        assert aigq(*stage, *run)[0] == DONE
    code, out, err = aigq("train", "grpo", *run, "--json", "--force")
    assert code == DONE, err
    assert json.loads(out)["steps"] == 1
    assert (shop / "runs/grpo/models/direct_il_grpo/model.safetensors").exists()


def test_replay_then_exposure_mode(aigq, shop):
    day = ("--set", "samples.unit=user_day", "--set", "replay.channels=[popular, personal]")
    run = ("--config", "shop.yaml", "--run", "runs/replay", *day, "--out", "replayed", "--json")
    code, out, err = aigq("replay", *run)
    assert code == DONE, err
    assert json.loads(out)["clicks"] == "simulated"
    assert aigq("replay", *run)[1] == out
    exposures = ("--set", "data.tables=replayed", "--set", "samples.unit=exposure")
    days = ("--set", "split.validation_from=2011-09-12", "--set", "split.test_from=2011-09-16")
    run = ("--config", "shop.yaml", "--run", "runs/exposures", *exposures, *days, "--json")
    code, out, err = aigq("table", *run, "--set", "evaluation.rows=[popular]")
    assert code == DONE, err
    result = json.loads(out)
    assert (result["mode"], result["clicks"]) == ("exposure", "simulated")
    assert "simulated clicks" in (shop / "runs" / "exposures" / "report.html").read_text()


def test_hints_have_reasons_and_obey_the_count(aigq, trained):
    code, out, err = aigq(
        "generate", "u2q", "--run", str(trained), "--users", "user1,user2,stranger", "-n", "4", "--json"
    )
    assert code == DONE, err
    users = json.loads(out)["users"]
    assert [user["user_id"] for user in users] == ["user1", "user2", "stranger"]
    assert users[2]["behaviours"] == 0
    for user in users:
        queries = [hint["query"] for hint in user["hints"]]
        assert 0 < len(queries) <= 4
        assert len(set(queries)) == len(queries)
        assert all(hint["reason"] for hint in user["hints"])


def test_hints_for_people(aigq, trained):
    code, out, _ = aigq("generate", "u2q", "--run", str(trained), "--users", "user3", "--system", "popular")
    assert code == DONE
    assert "user3" in out


def test_a_training_that_was_given_up_does_not_stand_in_the_way_of_others(tmp_path):
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    run = Run.open(tmp_path, configs.parse({"split": split, "grpo": {"steps": 3}}))
    with pytest.raises(KeyboardInterrupt), run.stage("grpo:direct_grpo"):
        raise KeyboardInterrupt
    other = Run.open(tmp_path, configs.parse({"split": split, "grpo": {"steps": 5}}))
    other.check("table")
    with run.stage("grpo:direct_il_grpo"):
        pass
    with pytest.raises(UsageError, match=r"grpo\.steps=3 \(now 5\)"):
        other.check("table")


def test_demo_ends_with_table_hints_and_report(aigq, shop):
    code, out, err = aigq("demo", "--config", "shop.yaml", "--run", "runs/demo")
    assert code == DONE, err
    assert out.count("behaviours") == 3
    assert "direct_il_sft" in out
    report, storefront = out.splitlines()[-2:]
    assert "runs/demo/report.html" in report
    assert storefront == "storefront: aigq publish --run runs/demo && aigq serve --run runs/demo --demo"
    assert (shop / "runs/demo/metrics.json").exists()


def test_doctor(aigq):
    code, out, _ = aigq("doctor", "--json")
    result = json.loads(out)
    assert code == DONE
    assert {"python", "core", "train", "threads", "gpu", "disk", "run folder"} <= {
        c["name"] for c in result["checks"]
    }
    assert aigq("doctor")[0] == DONE


@pytest.mark.parametrize("run", ["file", "file/run"])
def test_doctor_with_a_file_for_a_run_folder(aigq, tmp_path, run):
    (tmp_path / "file").touch()
    code, out, _ = aigq("doctor", "--run", str(tmp_path / run), "--json")
    assert code == FAILED
    details = {check["name"]: check["detail"] for check in json.loads(out)["checks"]}
    assert details["run folder"] == f"{tmp_path / 'file'} is a file; give --run a folder"


def test_version_and_help(aigq):
    assert aigq("--version")[0] == DONE
    code, out, _ = aigq("--help")
    assert code == DONE
    assert "prepare" in out


# --- one folder, one config ---


@pytest.mark.parametrize("command", [["prepare"], ["table"], ["evaluate"], ["train", "sft"]])
def test_a_changed_config_is_refused_where_it_would_lie(aigq, trained, command):
    code, _, err = aigq(*command, "--config", "shop.yaml", "--set", "samples.k_users=3")
    assert code == WRONG_USE
    assert "samples.k_users=2 (now 3)" in err
    assert "--run" in err


def test_a_changed_training_leaves_preparation_usable(aigq, trained):
    assert aigq("prepare", "--config", "shop.yaml", "--set", "sft.epochs=2")[0] == DONE
    code, _, err = aigq("train", "sft", "--config", "shop.yaml", "--set", "sft.epochs=2")
    assert code == WRONG_USE
    assert "sft.epochs" in err


def test_evaluation_may_change_in_a_finished_run(aigq, trained):
    code, out, err = aigq("table", "--config", "shop.yaml", "--set", "evaluation.bootstrap=150", "--json")
    assert code == DONE, err
    assert json.loads(out)["bootstrap"] == 150


def test_force_redoes_a_stage_and_forgets_what_came_from_it(aigq, shop):
    run = ("--config", "shop.yaml", "--run", "runs/forced")
    assert aigq("prepare", *run)[0] == DONE
    code, _, err = aigq("table", *run, "--set", "samples.k_users=3")
    assert (code, "redo it here: `aigq prepare --force`" in err) == (WRONG_USE, True)
    code, _, err = aigq("prepare", *run, "--set", "samples.k_users=3", "--force")
    assert code == DONE, err
    assert aigq("prepare", *run)[0] == WRONG_USE


def test_resume_with_another_config_is_refused(aigq, trained):
    code, _, err = aigq("train", "sft", "--config", "shop.yaml", "--set", "sft.learning_rate=0.1", "--resume")
    assert code == WRONG_USE
    assert "resume" in err


# --- when something goes wrong ---


@pytest.fixture
def failing(monkeypatch, aigq):
    """Make `aigq doctor` raise something."""

    def fail_with(error):
        def examine(run):
            raise error

        monkeypatch.setattr("aigq.doctor.examine", examine)
        return aigq("doctor")

    return fail_with


def test_an_expected_failure_is_one_line(failing):
    code, _, err = failing(StageError("the model diverged"))
    assert (code, err) == (FAILED, "aigq: the model diverged\n")


def test_debug_shows_the_traceback(monkeypatch, failing):
    monkeypatch.setenv("AIGQ_DEBUG", "1")
    with pytest.raises(StageError):
        failing(StageError("the model diverged"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("failed to offload data. This limit was set by the 'max_temp_directory_size' setting."),
    ],
)
def test_a_full_disk_is_one_line(failing, error):
    code, _, err = failing(error)
    assert code == FAILED
    assert "the disk is full" in err
    assert len(err.splitlines()) == 1


def test_a_full_disk_is_seen_through_other_errors(failing):
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failing(wrapped)[0] == FAILED


@pytest.mark.parametrize(("package", "extra"), [("peft", "train"), ("trl", "trl"), ("unknown", "demo")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(failing, package, extra):
    code, _, err = failing(ModuleNotFoundError(f"No module named '{package}'", name=package))
    assert code == FAILED
    assert f"{package} is not installed; pip install 'aigq[{extra}]'" in err


def test_output_that_nobody_reads_is_one_line():
    command = [sys.executable, "-m", "aigq.cli", "doctor", "--store", "memory:", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read().startswith("aigq: nobody reads the output")
    assert process.returncode == FAILED


def test_a_bug_keeps_its_traceback(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


@pytest.mark.parametrize(
    ("tokens", "command"),
    [
        (["train", "sft", "--config", "a.yaml"], "aigq train sft --config a.yaml --resume"),
        (["train", "sft", "--resume"], "aigq train sft --resume"),
        (["prepare", "--config", "a.yaml"], "aigq prepare --config a.yaml"),
        (["table", "--config", "a.yaml"], "aigq table --config a.yaml"),
    ],
)
def test_ctrl_c_says_how_to_continue(monkeypatch, capsys, tokens, command):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert main(tokens) == INTERRUPTED
    assert capsys.readouterr().err.strip().endswith(command)


def test_ctrl_c_in_training_leaves_a_run_that_resumes(aigq, shop):
    run = ["--config", "shop.yaml", "--run", "runs/interrupted", "--set", "sft.epochs=400"]
    assert aigq("prepare", *run)[0] == DONE
    command = [sys.executable, "-m", "aigq.cli", "train", "sft", *run]
    work = subprocess.Popen(
        command,
        cwd=shop,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AIGQ_DEBUG": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    for line in work.stderr:
        if line.startswith("train step "):  # a validation, so a checkpoint, has been made
            break
    work.send_signal(signal.SIGINT)
    rest = work.stderr.read()
    assert work.wait() == INTERRUPTED, rest
    assert "--resume" in rest.splitlines()[-1]
    assert "Traceback" not in rest
    run[-1] = "sft.epochs=1"
    code, _, err = aigq("train", "sft", *run, "--resume")
    assert code == WRONG_USE, "another schedule cannot be resumed"
    assert "sft.epochs=400" in err
    stages = json.loads((shop / "runs/interrupted/stages.json").read_text())
    assert "finished" not in stages["sft:direct_il_sft"]
