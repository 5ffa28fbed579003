"""Which of several processes of one training this is: `accelerate launch` and `torchrun` say so.

The first process alone keeps the records of a run, speaks and writes; the others compute.
"""

import os


def rank() -> int:
    """0 for the first process, and for one that is alone."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
