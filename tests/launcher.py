"""Several processes of one training, started as torchrun does."""

import os
import subprocess
import sys

from serving_helpers import free_port


def start(arguments: list, count: int) -> list[subprocess.Popen]:
    """`python ARGUMENTS` as each of the ranks."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={
                **os.environ,
                **address,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(members: list[subprocess.Popen], seconds: float = 280.0) -> list[str]:
    """What each wrote to stdout; all must end well."""
    try:
        said = [member.communicate(timeout=seconds) for member in members]
    finally:
        for member in members:
            member.kill()
    assert [member.returncode for member in members] == [0] * len(members), said[0][1][-3000:]
    return [out for out, _ in said]
