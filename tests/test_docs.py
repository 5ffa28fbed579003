"""The documents say what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from aigq.config import parse

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def generator():
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "tools" / "gen_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "cli.md", "results.md", "../README.md"])
def test_generated_pages_are_current(name):
    assert (ROOT / "docs" / name).read_text() == generator().pages()[name], "run `make docs`"


def test_results_say_on_which_machine_and_with_which_config_they_were_made():
    module = generator()
    config = {"seed": 0, "evaluation": {"max_users": 800}}
    table = {"dataset": "bestbuy", "config": config, "machine": "Linux x86_64, 2 cores"}
    (line,) = module._made(table)
    assert "`aigq table --config recipes/table-bestbuy.yaml --set evaluation.max_users=800` on Linux" in line
    assert "benchmarks/results/table-bestbuy.json" in line
    assert module._made({"dataset": "bestbuy"}) == []  # of before that was recorded


def test_the_readme_names_every_command():
    module = generator()
    readme = (ROOT / "README.md").read_text()
    missing = [path for path in module.commands(module.app) if f"aigq {' '.join(path)}" not in readme]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_method_names_files_and_functions_that_exist():
    page = (ROOT / "docs" / "method.md").read_text()
    spans = set(re.findall(r"`([^`]+)`", page))
    files = [span for span in spans if re.fullmatch(r"[\w/]+\.(py|json|sh)", span)]
    found = [next((p for p in (ROOT / "src/aigq" / f, ROOT / f) if p.exists()), None) for f in files]
    assert [f for f, path in zip(files, found, strict=True) if path is None] == []
    code = "\n".join(path.read_text() for path in found if path.suffix == ".py")
    defined = set(re.findall(r"(?:def|class) (\w+)", code))
    keys = set(re.findall(r"\w+", (ROOT / "docs" / "configuration.md").read_text()))
    names = [span.split(".")[-1] for span in spans if re.fullmatch(r"[A-Za-z_.]+", span)]
    assert len(names) > 20
    assert [name for name in names if name not in defined | keys] == []


def test_docstrings_refer_to_sections_of_the_method():
    sections = set(re.findall(r"^## (\d)\.", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE))
    cited = set()
    for path in (ROOT / "src").rglob("*.py"):
        for numbers in re.findall(r"method\.md sections? ([\d, and]*\d)", path.read_text()):
            cited |= set(re.findall(r"\d", numbers))
    assert cited
    assert cited <= sections


def test_every_case_of_bad_input_has_its_tests():
    rows = re.findall(r"^\| (?!case|--)(.+) \|$", (ROOT / "docs" / "bad-input.md").read_text(), re.M)
    cells = [row.split(" | ") for row in rows]
    assert len(cells) > 20
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1]) for row in cells]
    assert [row[0] for row, tests in zip(cells, named, strict=True) if len(row) != 5 or not tests] == []
    pairs = {pair for tests in named for pair in tests}
    missing = [
        f"{file}::{test}"
        for file, test in sorted(pairs)
        if not re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M)
    ]
    assert missing == []


def test_the_snippets_about_zero_shot_rows_are_configs():
    snippets = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "zero-shot.md").read_text(), re.M | re.S)
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    configs = [parse({"split": split, **yaml.safe_load(snippet)}) for snippet in snippets]
    assert {name for config in configs for name in config.channels.llms} == {
        "qwen3",
        "gpt",
        "gemini",
        "smollm2",
    }
    for config in configs:
        asked = {row for row in config.evaluation.rows if row.startswith("zero_shot:")}
        assert asked <= {f"zero_shot:{name}" for name in config.channels.llms}


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z-]+)`?", (ROOT / "README.md").read_text()))
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.M)} == set()
