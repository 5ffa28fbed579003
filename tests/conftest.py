"""Fixtures of several folders."""

import os
import subprocess

import pytest


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
