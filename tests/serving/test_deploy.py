"""deploy/: the compose file and the systemd units are well formed, and their commands do their work."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from hashlib import sha256
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving_helpers import free_port, listening, wait_for

from aigq.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(p for p in (DEPLOY / "systemd").iterdir() if p.suffix in (".service", ".timer"))
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
OURS = ("serve", "nearline", "daily")


def key_values(path):
    lines = path.read_text().splitlines()
    return [tuple(line.split("=", 1)) for line in lines if re.match(r"[\w]+=", line)]


EXAMPLE_ENV = dict(key_values(DEPLOY / "systemd" / "aigq.env.example"))


def filled(text, values):
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as compose and systemd fill them in."""
    named = re.compile(r"(?<!\$)\$\{(\w+)(?::?-([^}]*)|:\?[^}]*)?\}")
    return named.sub(lambda m: values.get(m[1]) or m[2] or "", text).replace("$$", "$")


def unit_commands(path):
    return [
        shlex.split(filled(value.lstrip("+"), EXAMPLE_ENV))
        for key, value in key_values(path)
        if key.startswith("Exec")
    ]


# --- form ---


def test_compose_follows_the_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, DEPLOY / "docker" / "compose.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_services_are_hardened_and_healthy():
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "healthcheck" in service or service["restart"] == "no", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert ("build" in service) == (name in OURS)
        assert re.search(r":v?\d+\.\d+", service["image"]) if "image" in service else True, name


def test_compose_names_only_what_it_declares():
    declared = COMPOSE["volumes"].keys()
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in declared or source.startswith("./") or (DEPLOY / "docker" / source).exists()
        assert set(service.get("depends_on", ())) <= COMPOSE["services"].keys()


def test_the_images_run_as_nobody_and_copy_what_exists():
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    stages = {line.split()[-1]: n for n, line in enumerate(lines) if line.startswith("FROM ")}
    targets = {COMPOSE["services"][name]["build"]["target"] for name in OURS}
    assert targets == {"serve", "work"} <= stages.keys()
    for target in targets:
        after = [line for line in lines[stages[target] + 1 :] if line.startswith(("FROM", "USER"))]
        assert after[0] == "USER 10001:10001"
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert f"!{source.removeprefix('./')}" in kept


def test_the_extras_of_the_images_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([\w,]+)\]'", (DEPLOY / "docker" / "Dockerfile").read_text())
    assert len(named) == 2
    assert {extra for extras in named for extra in extras.split(",")} <= extras.keys()


def imported(folder):
    """The other people's packages that modules below a folder import, by top-level name."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "aigq":
                    yield name


def test_the_extra_serve_has_all_that_the_service_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages, extras = packages_distributions(), project["optional-dependencies"]

    def modules(needed):
        wanted = {canonicalize_name(Requirement(text).name) for text in needed}
        return {m for m, owners in packages.items() if wanted & {canonicalize_name(o) for o in owners}}

    # each is imported where a config or a URL asks for it
    asked_for = modules([*extras["kafka"], *extras["otel"], *extras["profanity"]])
    installed = modules([*project["dependencies"], *extras["serve"]])
    assert set(imported(ROOT / "src" / "aigq" / "serving")) - asked_for - installed == set()
    used = set(imported(ROOT / "src" / "aigq"))
    assert [need for need in project["dependencies"] if not modules([need]) & used] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path):
    for path in UNITS:  # the programs must exist
        text = path.read_text().replace("/opt/aigq/bin/aigq", sys.executable)
        (tmp_path / path.name).write_text(text.replace("/opt/aigq/daily.sh", str(DEPLOY / "daily.sh")))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run([*command, *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    services = [unit for unit in units if unit.endswith(".service")]
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=35", "--no-pager"]
    done = subprocess.run([*command, *services], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# --- commands ---


def aigq_commands():
    for name in OURS[:2]:
        yield f"compose {name}", COMPOSE["services"][name]["command"]
    for unit in UNITS:
        for command in unit_commands(unit):
            if Path(command[0]).name == "aigq":
                yield unit.name, command[1:]
    script = (DEPLOY / "daily.sh").read_text()
    for line in re.findall(r"(?:^ *|\) )(aigq .+?)(?: ;;)?$", script, re.M):
        line = re.sub(r"\$\{\w+:\+(.+?)\}", r"\1", line)  # what a variable that is set adds
        yield f"daily.sh {line.split()[1]}", shlex.split(re.sub(r"\$(\w+)", r"\1", line))[1:]


@pytest.mark.parametrize(("where", "arguments"), aigq_commands(), ids=lambda value: str(value)[:30])
def test_a_command_is_one_of_ours(where, arguments):
    command, bound, ignored = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.arguments
    assert not ignored


def test_nothing_is_left_out():
    verbs = [
        " ".join(arguments[: 1 + (arguments[0] in ("train", "generate"))]) for _, arguments in aigq_commands()
    ]
    daily = [
        *["import"] * 3,
        "prepare",
        "train sft",
        "train ctr",
        "train grpo",
        "generate u2q",
        "generate x2q",
        "publish",
    ]
    assert sorted(verbs) == sorted(["serve", "nearline"] * 2 + daily)
    others = [command[0] for unit in UNITS for command in unit_commands(unit) if "bin/aigq" not in command[0]]
    assert others == ["/opt/aigq/daily.sh", "/usr/bin/systemctl"]


class Composed:
    """The services of the compose file as processes here: other paths, host names and ports, nothing else."""

    def __init__(self, run_folder, folder):
        self.port = {name: free_port() for name in ("6379", "8080", "9109")}
        self.swaps = {
            "/var/lib/aigq/current": str(run_folder),
            "/run/secrets/keys": str(folder / "keys.yaml"),
            "@valkey:6379": f"@127.0.0.1:{self.port['6379']}",
            "valkey-server": f"redis-server --port {self.port['6379']} --dir {folder}",
            "valkey-cli": f"redis-cli -p {self.port['6379']}",
            "8080": str(self.port["8080"]),
            "9109": str(self.port["9109"]),
        }
        key = {"name": "all", "sha256": sha256(b"secret").hexdigest(), "roles": ["read", "write", "admin"]}
        (folder / "keys.yaml").write_text(yaml.safe_dump([key]))
        self.given = {"VALKEY_PASSWORD": "pass.word", "AIGQ_SYSTEM": "personal"}
        self.started = []

    def here(self, text):
        text = filled(text, self.given)
        for there, here in self.swaps.items():
            text = text.replace(there, here)
        return text

    def environment(self, name):
        own = COMPOSE["services"][name].get("environment", {})
        return {**os.environ, **{key: self.here(value) for key, value in own.items()}}

    def command(self, name):
        words = [self.here(word) for word in COMPOSE["services"][name]["command"]]
        return words if name == "valkey" else [sys.executable, "-m", "aigq.cli", *words]

    def start(self, name, port):
        process = subprocess.Popen(
            self.command(name), env=self.environment(name), stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        listening(int(self.port[port]))
        return process

    def healthy(self, name):
        kind, *words = (self.here(word) for word in COMPOSE["services"][name]["healthcheck"]["test"])
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else [sys.executable, *words[1:]]
        done = subprocess.run(command, env=self.environment(name), capture_output=True, check=False)
        return done.returncode == 0


@pytest.fixture
def composed(shop_run, tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    services = Composed(shop_run.folder, tmp_path)
    yield services
    for process in reversed(services.started):
        process.kill()
        process.wait()


def test_the_composed_services_work_together(composed, shop_run):
    composed.start("valkey", "6379")
    assert wait_for(lambda: composed.healthy("valkey"))
    daily = composed.environment("daily")
    publish = [sys.executable, "-m", "aigq.cli", "publish", "--run", str(shop_run.folder)]
    subprocess.run(publish, env=daily, check=True, capture_output=True)
    server, worker = composed.start("serve", "8080"), composed.start("nearline", "9109")
    assert wait_for(lambda: composed.healthy("serve"))
    assert wait_for(lambda: composed.healthy("nearline"))
    url = f"http://127.0.0.1:{composed.port['8080']}"
    with httpx.Client(base_url=url, headers={"X-API-Key": "secret"}) as client:
        assert httpx.get(f"{url}/v1/hints").status_code == 401
        assert client.get("/v1/hints", params={"user": "u00"}).json()["hints"][0]["channel"] == "personal"
        event = {"action_name": "search", "user_id": "u00", "user_query": "sled"}
        assert client.post("/v1/events", json=event).status_code == 202
        assert "aigq_table_published_timestamp_seconds" in client.get("/metrics").text
    metrics = f"http://127.0.0.1:{composed.port['9109']}/metrics"
    wait_for(lambda: "aigq_generated_users_total 1.0" in httpx.get(metrics).text)
    for process in (server, worker):  # as `docker compose stop` does
        process.terminate()
        lines = process.communicate(timeout=20)[1].splitlines()
        assert process.returncode == 0
        assert all(json.loads(line)["message"] for line in lines)
    assert not composed.healthy("serve")


def test_a_unit_starts_with_the_example_environment(shop_run, tmp_path):
    (command,) = unit_commands(DEPLOY / "systemd" / "aigq-serve.service")
    port, home = free_port(), "/var/lib/aigq"
    swap = {f"{home}/current": str(shop_run.folder), "8080": str(port), home: str(tmp_path)}

    def here(text):
        for there, ours in swap.items():
            text = text.replace(there, ours)
        return text

    environment = {**os.environ, **{key: here(value) for key, value in EXAMPLE_ENV.items()}}
    words = [sys.executable, "-m", "aigq.cli", *(here(word) for word in command[1:])]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    try:
        listening(port)
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200)
        assert (tmp_path / "store").exists()
    finally:
        process.terminate()
        assert process.wait(20) == 0


# --- the daily job ---


def recipe():
    """Everything that the job trains, as small as it gets."""
    from test_cli import SMALL  # loads torch

    return {
        "name": "shop",
        **{section: SMALL[section] for section in ("samples", "prompt", "generator", "sft", "channels")},
        "think": {"max_triggers": 2, "rationale_tokens": 24},
        "ctr": {"auc_floor": 0.5, "max_samples": 200, "eval_samples": 100},
        "grpo": {"steps": 1, "prompts": 2, "group": 2, "eval_every": 1},
    }


def export(path, days=60):
    """Sixty days until now of twenty shoppers, in UBI's format: what a shop's export may look like."""
    now = int(time.time())
    words = ["sled", "gloves", "skates", "snow boots", "wool hat", "thermal socks"]
    with path.open("w") as file:
        for day in range(days):
            for user in range(20):
                event = {
                    "action_name": "search",
                    "user_id": f"user{user}",
                    "user_query": words[(user + day) % 3 + user % 2 * 3],
                    "timestamp": (now - (days - day) * 86400 + user) * 1000,
                }
                file.write(json.dumps(event) + "\n")


TRAINED = {
    ("personal", ""): ["ctr"],
    ("direct_il_sft", "think_il_sft"): ["ctr", "direct_il_sft", "direct_il_sft", "think_il_sft"],
    ("direct_il_grpo", ""): ["ctr", "direct_il_sft", "direct_il_grpo"],
    ("think_grpo", ""): ["ctr", "direct_il_sft", "think_il_sft", "think_grpo"],
    ("direct_sft", "think_sft"): ["ctr", "direct_sft", "think_sft"],
}


@pytest.mark.parametrize(("system", "think"), TRAINED)
def test_the_daily_job_trains_what_a_system_starts_from(system, think, tmp_path):
    (tmp_path / "aigq").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    (tmp_path / "aigq").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "AIGQ_HOME": str(tmp_path), "AIGQ_SOURCE": "ubi",
        "AIGQ_EXPORT": "x", "AIGQ_SYSTEM": system, "AIGQ_THINK": think,
    }  # fmt: skip
    (tmp_path / "runs").mkdir()
    subprocess.run([DEPLOY / "daily.sh"], env=environment, check=True)
    said = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    trained = [w[w.index("--system") + 1] if "--system" in w else w[1] for w in said if w[0] == "train"]
    assert trained == TRAINED[system, think]
    others = [f"{words[0]} {words[1]}" for words in said if words[0] == "generate"]
    assert others == ["generate u2q", *(["generate x2q"] if think else [])]
    assert [said[n][0] for n in (0, 1, -1)] == ["import", "prepare", "publish"]


@pytest.mark.parametrize(
    ("given", "imports"),
    [
        ({"AIGQ_EXPORT": "x", "AIGQ_SOURCE": "ubi"}, ["import ubi x"]),
        (
            {"AIGQ_EXPORT": "x", "AIGQ_SOURCE": "files", "AIGQ_COLUMNS": "c.yaml"},
            ["import files x --columns c.yaml"],
        ),
        ({"AIGQ_LOG": "sqlite:x"}, ["import log --config shop.yaml"]),
        (
            {"AIGQ_EXPORT": "x", "AIGQ_SOURCE": "ubi", "AIGQ_LOG": "redis://x"},
            ["import ubi x", "import log --hints-only --config shop.yaml"],
        ),
        (
            {"AIGQ_EXPORT": "x", "AIGQ_SOURCE": "ubi", "AIGQ_LOG": f"sqlite:{__file__}"},
            ["import ubi x", "import log --hints-only --config shop.yaml"],
        ),
        # before the first start of the service
        ({"AIGQ_EXPORT": "x", "AIGQ_SOURCE": "ubi", "AIGQ_LOG": "sqlite:not-yet"}, ["import ubi x"]),
    ],
)
def test_the_daily_job_learns_from_export_and_event_log(given, imports, tmp_path):
    (tmp_path / "aigq").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    (tmp_path / "aigq").chmod(0o755)
    (tmp_path / "runs").mkdir()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "AIGQ_HOME": str(tmp_path), "AIGQ_CONFIG": "shop.yaml",
        **given,
    }  # fmt: skip
    subprocess.run([DEPLOY / "daily.sh"], env=environment, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert [line for line in said if line.startswith("import")] == [
        f"{line} --out {tmp_path}/tables" for line in imports
    ]


def test_the_daily_job_can_train_on_from_the_run_before(tmp_path):
    (tmp_path / "aigq").write_text(
        f'#!/bin/sh\necho "$1 $AIGQ__GENERATOR__START $AIGQ__CTR__START" >> {tmp_path}/said\n'
    )
    (tmp_path / "aigq").chmod(0o755)
    last = tmp_path / "runs" / "2026-01-03"
    for model in ("direct_il_grpo", "ctr"):
        (last / "models" / model).mkdir(parents=True)
    (tmp_path / "current").symlink_to(last)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "AIGQ_HOME": str(tmp_path), "AIGQ_SOURCE": "ubi",
        "AIGQ_EXPORT": "x", "AIGQ_SYSTEM": "direct_il_grpo", "AIGQ_THINK": "", "AIGQ_CONTINUE": "1",
    }  # fmt: skip
    for _ in range(2):  # the second time `current` is the day's own run
        subprocess.run([DEPLOY / "daily.sh"], env=environment, check=True)
        run = (tmp_path / "current").resolve()
        before = f"{run}/before/models"
        said = (tmp_path / "said").read_text().splitlines()
        assert run != last
        assert (run / "before").resolve() == last
        assert said[1:] == [
            f"{verb} {before}/direct_il_grpo {before}/ctr"
            for verb in ("prepare", "train", "train", "train", "generate", "publish")
        ]
        (tmp_path / "said").unlink()


WHOLE = ("direct_il_grpo", "think_il_sft")


@pytest.mark.timeout(900)  # a dozen commands, each of which starts anew
@pytest.mark.parametrize(
    ("system", "think"), [("personal", ""), pytest.param(*WHOLE, marks=pytest.mark.slow)]
)
def test_the_daily_job_publishes_a_run_and_keeps_the_last_ones(system, think, tmp_path):
    home, programs = tmp_path / "home", tmp_path / "bin"
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        (home / "runs" / day).mkdir(parents=True)
    programs.mkdir()
    (programs / "aigq").write_text(f'#!/bin/sh\nexec {sys.executable} -m aigq.cli "$@"\n')
    (programs / "aigq").chmod(0o755)
    export(tmp_path / "export.jsonl")
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(recipe()))
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "AIGQ_HOME": str(home),
        "AIGQ_CONFIG": str(tmp_path / "shop.yaml"),
        "AIGQ_SOURCE": "ubi",
        "AIGQ_EXPORT": str(tmp_path / "export.jsonl"),
        "AIGQ_SYSTEM": system,
        "AIGQ_THINK": think,
        "AIGQ_KEEP_RUNS": "2",
        "AIGQ_STORE": f"lmdb:{home}/store?map_gb=1",
    }
    done = subprocess.run([DEPLOY / "daily.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (home / "runs").iterdir())
    assert len(runs) == 2
    assert runs[0] == "2026-01-03"
    assert (home / "current").resolve() == home / "runs" / runs[1]
    config = yaml.safe_load((home / "current" / "config.yaml").read_text())
    assert config["data"]["tables"] == str(home / "tables")
    report = subprocess.run(
        [programs / "aigq", "doctor", "--store", environment["AIGQ_STORE"], "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    details = {check["name"]: check["detail"] for check in json.loads(report.stdout)["checks"]}
    assert details["base"].startswith("20 keys")
    assert details["clicks"] != "no keys"
    assert (details["x2q"] != "no keys") == bool(think)


def test_the_daily_job_stops_at_the_first_failure(tmp_path):
    environment = {**os.environ, "AIGQ_HOME": str(tmp_path), "AIGQ_EXPORT": "x"}
    environment.pop("AIGQ_SOURCE", None)
    done = subprocess.run([DEPLOY / "daily.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "AIGQ_SOURCE" in done.stderr
    assert list(tmp_path.iterdir()) == []
