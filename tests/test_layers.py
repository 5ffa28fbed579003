"""Data flows one way: a step of CONTRIBUTING.md's chain imports only steps before it, and no ring."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "src/aigq"  # its folders and files


def imported(path):
    """Parts that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "aigq":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from re.findall(r"^aigq\.(\w+)", node.module or "")
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in re.findall(r"^aigq\.(\w+)", alias.name))


def test_data_flows_one_way():
    graph = {}
    for path in PARTS.rglob("*.py"):
        part = path.relative_to(PARTS).parts[0].removesuffix(".py")
        graph.setdefault(part, set()).update({*imported(path)} - {part})
    chain = re.search(r"\w+(?:\s→\s\w+)+", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    steps = re.split(r"\s→\s", chain.group())
    assert {*steps} <= graph.keys()
    assert len(steps) > 5
    for earlier, later in itertools.pairwise(steps):
        graph[later].add(earlier)  # an import against the chain closes a ring
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the ring
