import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_helpers import NOW, add_up

from aigq.sources import ImportSummary, import_source


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., ImportSummary]:
    def run(source: str, path: Path | None, out: Path | None = None, **options: Any) -> ImportSummary:
        summary = import_source(source, path, out or tmp_path / "out", now=NOW, **options)
        assert add_up(summary)
        return summary

    return run


@pytest.fixture
def shared() -> Path:
    folder = Path(os.environ.get("AIGQ_SHARED_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set AIGQ_SHARED_DATA")
    return folder
