"""A run folder: what was asked (config.yaml), with what (versions.json), and what is finished (stages.json).

A stage remembers the part of the config that it was made with. A later command on the same folder with
another config is refused where old and new artefacts would be mixed: a table over a model that was trained
on other samples would lie. `--force` starts again from that stage.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from aigq import __version__
from aigq import config as configs
from aigq.config import Config
from aigq.errors import ConfigError, StageError, UsageError
from aigq.systems import CTR, starts_from, thinks

RUNS: Final = Path("runs")

_PREPARE: Final = ("data", "history", "split", "samples")
_RANKER: Final = tuple(f"channels.{name}" for name in ("popular", "personal", "coclick", "ebr", "ranker"))
_SFT: Final = (*_PREPARE, "seed", "encoder", *_RANKER, "channels.llms", "prompt", "generator", "sft")
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "prepare": _PREPARE,
    "item_text": (
        *("data", "history.session_gap_minutes", "split", "samples.k_users"),
        *("seed", "encoder", "generator", "item_text"),
        *("sft.warmup_fraction", "sft.weight_decay", "sft.gradient_clip", "sft.router_loss", "sft.dtype"),
    ),
    "sft": _SFT,
    "think": (*_SFT, "think"),
    "ctr": (*_PREPARE, "seed", "encoder", "ctr"),
    "grpo": (*_SFT, "think", "ctr", "grpo"),
    "table": (*_SFT, "think", "ctr", "grpo", "channels", "decoding", "x2q", "serving", "evaluation", "name"),
}
"""What each stage was made with. A key outside these sections may change without redoing the stage."""

UPSTREAM: Final[dict[str, tuple[str, ...]]] = {
    "item_text": (),  # `prepare` notices by itself when a text has changed
    "prepare": (),
    "sft": ("prepare",),
    "think": ("prepare", "sft"),
    "ctr": ("prepare",),
    "grpo": ("prepare", "sft", "think", "ctr"),
    "table": ("prepare", "sft", "think", "ctr", "grpo"),
}
_MAPPINGS: Final = frozenset({"sft.ranker", "serving.weights"})
"""Keys whose value is a mapping of the user's own, without an entry that it does not name."""

_INERT: Final = frozenset({"history.memory_limit", "data.path"})  # change nothing in the result
_PACKAGES: Final = (
    "aigq",
    "duckdb",
    "ibis-framework",
    "lightgbm",
    "numpy",
    "onnxruntime",
    "pyarrow",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


def kind(stage: str) -> str:
    """`sft:direct_sft` is a stage of the kind `sft`."""
    return stage.partition(":")[0]


def command(stage: str) -> str:
    """The command that does a stage."""
    name, _, system = stage.partition(":")
    if name == "prepare":
        return "aigq prepare"
    verb = "sft" if name == "think" else name.replace("_", "-")
    return f"aigq train {verb}{f' --system {system}' if system else ''}"


@dataclass(frozen=True)
class Run:
    """A run folder and the config of this command."""

    folder: Path
    config: Config

    @classmethod
    def open(cls, folder: Path, config: Config) -> "Run":
        """Create the folder if needed. Raises UsageError when it cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{folder} is a file; give --run a folder") from None
        except PermissionError:
            raise UsageError(
                f"{folder} cannot be created: permission denied; give --run another folder"
            ) from None
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{folder} is not writable; give --run another folder")
        return cls(folder, config)

    def finished(self, stage: str) -> bool:
        """Whether the stage is finished in this folder, with this config."""
        record = self._records().get(stage)
        return record is not None and "finished" in record and not self._changes(stage, record)

    def started(self, stage: str) -> bool:
        """Whether the stage was begun with this config and did not end: there may be something to resume."""
        record = self._records().get(stage)
        return record is not None and "finished" not in record and not self._changes(stage, record)

    def check(self, stage: str) -> None:
        """Raise UsageError if running `stage` with this config would mix two configs in this folder."""
        for name, record in self._records().items():
            if "finished" not in record or name == stage == "table":
                continue  # nothing is made from what did not end; a table is written whole again
            related = name == stage or self._made_from(name, stage) or self._made_from(stage, name)
            changes = self._changes(name, record, of=stage) if related else []
            if changes:
                earlier = stage if kind(stage) in UPSTREAM[kind(name)] else name
                raise UsageError(
                    f"{self.folder} holds `{name}` made with {'; '.join(changes[:3])}"
                    f"{f' and {len(changes) - 3} more' if len(changes) > 3 else ''}. "
                    f"Give another --run, or redo it here: `{command(earlier)} --force`"
                )

    def check_resume(self, stage: str) -> None:
        """Raise UsageError if the unfinished work of `stage` was begun with another config."""
        record = self._records().get(stage)
        changes = self._changes(stage, record) if record is not None else []
        if changes:
            raise UsageError(
                f"cannot resume `{stage}` in {self.folder}: it was begun with {'; '.join(changes[:3])}. "
                "Use the same config, or leave out --resume to start again"
            )

    def forget(self, stage: str) -> None:
        """Forget the stage and everything made from it; their files are overwritten when they run again.

        Raises:
            UsageError: another command works in the folder.
        """
        with self.alone():
            records = self._records()
            for name in list(records):
                if name == stage or self._made_from(name, stage):
                    del records[name]
                    if kind(name) == "table":
                        for result in ("metrics.json", "report.html"):
                            (self.folder / result).unlink(missing_ok=True)
            self._write("stages.json", records)

    def outdate_models(self) -> None:
        """Mark every model as trained with rows of a user who was erased since; it stays in use until then.

        A training that was under way is forgotten, so that it begins anew.
        """
        records = self._records()
        for name in [name for name in records if kind(name) not in ("prepare", "table")]:
            if "finished" in records[name]:
                records[name].setdefault("outdated", _now())
            else:
                del records[name]
        self._write("stages.json", records)

    def outdated_models(self) -> list[str]:
        """The stages that `outdate_models` marked and that did not run again since."""
        return [name for name, record in self._records().items() if "outdated" in record]

    def replace_result(self, stage: str, result: dict[str, Any]) -> None:
        """Another result of a finished stage, whose artefacts were made again without it being begun."""
        records = self._records()
        records[stage]["result"] = json.loads(json.dumps(result, default=str))
        self._write("stages.json", records)

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage returned, or nothing."""
        if kind(stage) == "table":
            path = self.folder / "metrics.json"
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        return dict(self._records().get(stage, {}).get("result", {}))

    def begun(self, stage: str) -> str:
        """When the present artefacts of the stage were begun; tells one training from the next."""
        return str(self._records().get(stage, {}).get("started"))

    @contextmanager
    def stage(self, stage: str, *, resume: bool = False) -> Iterator[dict[str, Any]]:
        """Record that the stage begins and, unless an exception leaves the block, that it finished.

        What the block puts into the yielded dict is the stage's result. With `resume` the checkpoints of a
        training that was begun with this config and data stay; all others go.

        Raises:
            UsageError: the folder holds artefacts of another config, or another command works in it.
        """
        with self.alone():
            yield from self._recorded(stage, resume=resume)

    @cached_property
    def _lock(self) -> FileLock:
        """One object, so that a stage that holds it may forget what was made from it."""
        return FileLock(self.folder / ".lock", blocking=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands from this folder; the lock goes with the process, however it ends.

        Raises:
            UsageError: another command works in the folder.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise UsageError(
                f"another aigq command works in {self.folder}; wait until it has ended, or give another --run"
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def _recorded(self, stage: str, *, resume: bool) -> Iterator[dict[str, Any]]:
        """What `stage` does, alone in the folder."""
        self.check(stage)
        if not (resume and self.started(stage)):  # nothing is made yet from what goes on
            self.forget(stage)
            self._remove_checkpoints(stage)  # before the record: what has one and did not end is resumed
        self._replace("config.yaml", configs.dump(self.config))
        self._write("versions.json", versions())
        records = self._records()
        records[stage] = {"started": _now(), "config": _settings(self.config, stage)}
        self._write("stages.json", records)
        result: dict[str, Any] = {}
        yield result
        records = self._records()
        records[stage]["finished"] = _now()
        if kind(stage) != "table":  # its result is metrics.json
            records[stage]["result"] = json.loads(json.dumps(result, default=str))
        self._write("stages.json", records)

    def _remove_checkpoints(self, stage: str) -> None:
        """Of a training and its imitation, those of TRL included; weights and log stay."""
        training = self.folder / "models" / stage.rpartition(":")[2] / "training"
        for checkpoint in list(training.glob("**/checkpoint[.-]*")):
            remove(checkpoint)

    def _made_from(self, later: str, earlier: str) -> bool:
        """Whether a stage depends on another: of generators, only where one starts from the other."""
        if ":" in later and ":" in earlier:
            return earlier.partition(":")[2] in starts_from(later.partition(":")[2])
        if earlier == CTR and CTR in self.config.sft.ranker and kind(later) in ("sft", "think"):
            return True  # it orders their labels
        return kind(earlier) in UPSTREAM[kind(later)]

    def _records(self) -> dict[str, Any]:
        try:
            records: dict[str, Any] = json.loads((self.folder / "stages.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            raise StageError(f"{self.folder / 'stages.json'} is damaged; delete it to redo the run") from None
        return records

    def _changes(self, stage: str, record: dict[str, Any], of: str | None = None) -> list[str]:
        """Settings of `record` that differ now, among those that matter to both `stage` and `of`."""
        now, then = _settings(self.config, stage), dict(record["config"])
        usual = _settings(Config(split=self.config.split), stage)
        for key in now.keys() & usual.keys() - then.keys():
            mapping = key.rpartition(".")[0]
            if mapping not in _MAPPINGS or not any(f"{name}.".startswith(f"{mapping}.") for name in then):
                then[key] = usual[key]  # the key is younger than the record
        return [
            f"{key}={json.dumps(then.get(key), ensure_ascii=False)}"
            f" (now {json.dumps(now.get(key), ensure_ascii=False)})"
            for key in {**then, **now}
            if _matters(key, stage, self.config)
            and _matters(key, of or stage, self.config)
            and then.get(key) != now.get(key)
        ]

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _replace(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / name)


def resolve(config_file: Path | None, folder: Path | None, overrides: Sequence[str]) -> tuple[Config, Path]:
    """The config and the run folder that `--config`, `--run` and `--set` mean.

    Without `--run` the folder is runs/STEM of the config file; without `--config` the file is the one that an
    earlier command left in the run folder.

    Raises:
        ConfigError: neither names a config, or the config is wrong.
    """
    if config_file is None:
        if folder is None:
            raise ConfigError(
                "give --config FILE (the recipes are in recipes/*.yaml), or --run DIR of an earlier run"
            )
        config_file = folder / "config.yaml"
        if not config_file.exists():
            raise ConfigError(f"{folder} has no config.yaml from an earlier command; give --config FILE")
    if folder is None:
        stem = config_file.resolve().parent.name if config_file.name == "config.yaml" else config_file.stem
        folder = RUNS / stem
    return configs.load(config_file, list(overrides)), folder


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def versions() -> dict[str, Any]:
    """Python, the platform, the packages that results depend on, and the git revision when there is one."""
    return {
        "aigq": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := installed(name))},
        "git": _git_revision(),
    }


def installed(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != Path(__file__).resolve().parents[2]:
            return None  # an installed copy inside somebody else's repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _settings(config: Config, stage: str) -> dict[str, Any]:
    flat = _flat(config.model_dump(mode="json"))
    return {key: value for key, value in flat if _matters(key, stage, config)}


def _matters(key: str, stage: str, config: Config) -> bool:
    return key not in _INERT and any(
        f"{key}.".startswith(f"{section}.") for section in _sections(stage, config)
    )


def _sections(stage: str, config: Config) -> Iterator[str]:
    """Those of a stage. Of the language models trainings read only what writes for them."""
    system = stage.partition(":")[2]
    think = not system or thinks(system)
    llms = config.sft.llms() | (config.think.llms() if think else set())
    for section in SECTIONS[kind(stage)]:
        if section == "channels.llms":
            yield from (f"{section}.{name}" for name in llms)
        elif think or section != "think":
            yield section


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
