"""Asks whether a pinned package has a known vulnerability: pip-audit over constraints.txt.

`python tools/audit.py [--required] [options of pip-audit]`. Exit code 1 for a vulnerability that
`.ci/accepted-vulnerabilities.yaml` does not list with a reason. Where the advisory service cannot be reached,
it says so and ends with 0; with `--required` with 1. pip-audit itself calls a package that the service does
not know "not vulnerable", so a mirror without advisories would look like good news.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
ACCEPTED: Final = ROOT / ".ci" / "accepted-vulnerabilities.yaml"


class Verdict(NamedTuple):
    """What was asked and found: lines to print, and whether all is well, or None if nothing was learned."""

    lines: list[str]
    well: bool | None


def judge(report: Mapping[str, Any], accepted: Mapping[str, str]) -> Verdict:
    """Of pip-audit's JSON. `accepted`: id or alias of a vulnerability -> why it does not matter here."""
    packages = report["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        return Verdict([f"the service knows none of the {len(packages)} packages"], None)
    lines = [f"audited {len(known)} of {len(packages)} packages"]
    lines += [f"not audited: {package['skip_reason']}" for package in packages if package not in known]
    well, used = True, set[str]()
    for package in known:
        for found in package["vulns"]:
            ids = [found["id"], *found["aliases"]]
            listed = next((name for name in ids if name in accepted), None)
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            line = f"{package['name']} {package['version']}: {', '.join(ids)}, fixed in {fixed}"
            lines.append(line if listed is None else f"accepted: {line}; {accepted[listed]}")
            well = well and listed is not None
            used |= {listed} if listed else set()
    lines += [f"{ACCEPTED.name} lists {name}, which is not found any more" for name in accepted.keys() - used]
    return Verdict(lines, well)


def ask(options: Sequence[str]) -> Verdict:
    """Run pip-audit."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--desc", "off", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Verdict(last, None)
    return judge(report, yaml.safe_load(ACCEPTED.read_text(encoding="utf-8")) or {})


def main(arguments: Sequence[str]) -> int:
    """Ask, print, and return the exit code."""
    verdict = ask([argument for argument in arguments if argument != "--required"])
    print("\n".join(verdict.lines))
    if verdict.well is None:
        print("audit: NOT DONE, no advisories could be read here")
        return int("--required" in arguments)
    print(f"audit: {'no vulnerability that is not accepted' if verdict.well else 'FAILED'}")
    return int(not verdict.well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
