"""Machine code that is kept: where it may come from."""

import ast
from pathlib import Path

import numba
import numpy as np
import pytest

import aigq
from aigq.models.compiled import compiled

SOURCE = Path(aigq.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if "\n@compiled\n" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_compiled_functions_read_nothing_of_other_files(path):
    """numba makes kept code anew when the function's own file has changed, and looks at no other."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aigq")
        for alias in node.names
    }
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "compiled" for mark in node.decorator_list)
    ]
    assert functions
    for function in functions:
        read = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
        assert not read & ours, function.name


def test_machine_code_without_a_folder_to_keep_it(monkeypatch):
    made = numba.njit

    def nowhere(*function, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return made(*function, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    assert compiled(lambda x: x + 1)(2) == 3


def test_an_index_beyond_an_array_is_an_error():
    with pytest.raises(IndexError):
        compiled(lambda values, at: values[at])(np.zeros(3), 10**6)
