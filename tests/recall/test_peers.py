from pathlib import Path

import pytest
from channel_contract import K_USERS, check

from aigq.errors import StageError
from aigq.prepared import Prepared
from aigq.recall.peers import INSTALL, Peer, RowMissing, bench_python

SMALL = {
    "ease": {"regularization": 5.0},
    "als": {"factors": 8},
    "sasrec": {"factors": 16, "epochs": 2, "session_max_len": 8},
}


def python() -> Path:
    try:
        return bench_python()
    except RowMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["ease", "als"])
def test_contract(name: str, prepared: Prepared, tmp_path: Path) -> None:
    check(Peer(name, K_USERS, 0, tmp_path, python(), SMALL[name]), prepared)


@pytest.mark.slow
def test_contract_of_sasrec(prepared: Prepared, tmp_path: Path) -> None:
    check(Peer("sasrec", K_USERS, 0, tmp_path, python(), SMALL["sasrec"]), prepared)


def test_missing_python_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIGQ_BENCH_PYTHON", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RowMissing) as error:
        bench_python()
    assert INSTALL in str(error.value)
    monkeypatch.setenv("AIGQ_BENCH_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(RowMissing, match="nowhere"):
        bench_python()


def test_the_environment_variable_comes_first_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGQ_BENCH_PYTHON", raising=False)
    binary = tmp_path / ".venv-bench" / "bin" / "python"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    binary.chmod(0o755)
    deeper = tmp_path / "a" / "b"
    deeper.mkdir(parents=True)
    monkeypatch.chdir(deeper)
    assert bench_python() == binary
    monkeypatch.setenv("AIGQ_BENCH_PYTHON", "/bin/sh")
    assert bench_python() == Path("/bin/sh")


def test_a_failing_worker_is_one_clear_error(prepared: Prepared, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StageError, match="failed to fit: it is broken"):
        Peer("ease", K_USERS, 0, tmp_path / "x", broken).fit(prepared)
