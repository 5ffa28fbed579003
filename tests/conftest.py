"""Fixtures of several folders."""

import os
import shutil
import subprocess

import pytest
from serving_helpers import RedisServer

# the models are tiny: several threads would wait for each other longer than they compute, and keep processors
# busy with it; set before torch is loaded, and for all processes
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@pytest.fixture
def disk(tmp_path):
    """A disk of a given size, mounted in the test's folder; a full one is a full one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can be mounted by root only")
        return folder

    yield mount
    if os.path.ismount(folder):
        # lazily, since the traceback of a failed test may keep a file open
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()
