"""Moved to aigq.prepared."""
from aigq.prepared import *  # noqa: F403
from aigq.prepared import CausalCounts, Moment, Prepared  # noqa: F401
