"""`aigq doctor`: what this machine has, what is missing, and the command that adds it."""

import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from aigq import __version__
from aigq.runs import installed

Status = Literal["ok", "missing", "warning", "failed"]
TELEMETRY_OFF: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
_MARK: Final = {
    "ok": "[green]ok[/]",
    "missing": "[dim]-[/]",
    "warning": "[yellow]![/]",
    "failed": "[red]failed[/]",
}
_DEVELOPMENT: Final = frozenset({"dev"})


@dataclass(frozen=True)
class Check:
    """One line of the answer. `failed` makes the command fail, the other states do not."""

    name: str
    status: Status
    detail: str


def examine(run: Path) -> list[Check]:
    """All checks, in the order in which a newcomer would want them."""
    return [_python(), *_extras(), _threads(), _gpu(), _disk(run), _writable(run), _telemetry()]


def to_dict(checks: list[Check]) -> dict[str, object]:
    """For `--json`."""
    return {
        "aigq": __version__,
        "ok": not any(c.status == "failed" for c in checks),
        "checks": [asdict(c) for c in checks],
    }


def render(checks: list[Check]) -> object:
    """For people: a rich table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"aigq {__version__}", title_justify="left", box=None)
    for column in ("", "check", "what was found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(_MARK[check.status], check.name, escape(check.detail))
    return table


def _python() -> Check:
    fine = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if fine else "failed", f"{platform.python_version()} on {platform.platform()}"
    )


def how_to_install(module: str) -> str:
    """The command that adds a missing module: the smallest extra that brings it, or all of the demo."""
    package = module.partition(".")[0].replace("_", "-")
    having = [(len(packages), extra) for extra, packages in _needs().items() if package in packages]
    extra = min(having)[1] if having else "demo"
    return f"pip install 'aigq[{extra}]', or see `aigq doctor`"


def _needs() -> dict[str, list[str]]:
    """The packages of each extra; those that are always needed are `core`."""
    needs: dict[str, list[str]] = {"core": []}
    for line in metadata.requires("aigq") or []:
        marker = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        package = re.split(r"[^\w.-]", line)[0]
        if package != "aigq":
            needs.setdefault(marker[1] if marker else "core", []).append(package)
    return {extra: packages for extra, packages in needs.items() if extra not in _DEVELOPMENT}


def _extras() -> list[Check]:
    checks = []
    for extra, packages in _needs().items():
        found = {name: installed(name) for name in packages}
        missing = [name for name, version in found.items() if version is None]
        if not missing:
            checks.append(
                Check(extra, "ok", ", ".join(f"{name} {version}" for name, version in found.items()))
            )
        else:
            how = "pip install aigq" if extra == "core" else f"pip install 'aigq[{extra}]'"
            status: Status = "failed" if extra == "core" else "missing"
            checks.append(Check(extra, status, f"not installed: {', '.join(missing)}; {how}"))
    return checks


def _threads() -> Check:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    return Check("threads", "ok", f"{available} processors{f', OMP_NUM_THREADS={limit}' if limit else ''}")


def _gpu() -> Check:
    if installed("torch") is None:
        return Check("gpu", "missing", "torch is not installed; training needs pip install 'aigq[train]'")
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Check(
            "gpu", "ok", f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        )
    return Check(
        "gpu", "missing", "none that torch sees; everything works on the processor, training is slower"
    )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _disk(run: Path) -> Check:
    folder = _existing(run)
    free = shutil.disk_usage(folder).free / 2**30
    return Check("disk", "ok" if free >= 5 else "warning", f"{free:.0f} GiB free at {folder}")


def _writable(run: Path) -> Check:
    folder = _existing(run)
    if not folder.is_dir():
        return Check("run folder", "failed", f"{folder} is a file; give --run a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "run folder", "failed", f"{run} cannot be written: {error.strerror}; give --run another folder"
        )
    return Check("run folder", "ok", f"{run} can be written")


def _telemetry() -> Check:
    on = [name for name, value in TELEMETRY_OFF.items() if os.environ.get(name, value) in {"0", "", "false"}]
    if on:
        return Check("telemetry", "warning", f"{', '.join(on)} is set so that libraries may send usage data")
    return Check("telemetry", "ok", "off; aigq sends nothing, and switches the Hugging Face hub's off")
