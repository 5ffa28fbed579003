"""Importing aigq is cheap: a serving process and `aigq --help` depend on it."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "duckdb", "ibis", "sentence_transformers", "lightgbm", "pyarrow", "numpy"}
PROBE = """
import json, sys, time
start = time.perf_counter()
import {module}
print(json.dumps({{"seconds": time.perf_counter() - start, "modules": sorted(sys.modules)}}))
"""


def probe(module):
    code = PROBE.format(module=module)
    return json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def test_import_aigq_takes_under_a_third_of_a_second():
    assert min(probe("aigq")["seconds"] for _ in range(3)) < 0.3


@pytest.mark.parametrize("module", ["aigq", "aigq.cli", "aigq.config", "aigq.errors"])
def test_nothing_heavy_is_imported(module):
    assert HEAVY.isdisjoint(probe(module)["modules"])


def test_help_needs_nothing_heavy():
    code = "import sys\nfrom aigq.cli import main\nmain(['--help'])\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "import" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())
