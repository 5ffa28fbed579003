"""Prometheus metrics of the service and the worker."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from aigq.serving.keys import FAMILIES

_MS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

REQUESTS: Final = Counter("aigq_requests", "Requests by route and status", ["route", "status"])
SECONDS: Final = Histogram("aigq_hints_seconds", "Time of an answer with hints", buckets=_MS)
HINTS: Final = Counter("aigq_hints", "Hints served by channel", ["channel"])
LEFT_OUT: Final = Counter("aigq_channel_left_out", "Channels left out of an answer", ["channel", "why"])
GUARDED: Final = Counter("aigq_guarded", "Candidates that a guard refused", ["reason"])
ROTATED: Final = Counter("aigq_rotated", "Candidates that made room", ["reason"])
SHED: Final = Counter("aigq_shed", "Work given up to keep up", ["what"])
DAMAGED: Final = Counter("aigq_damaged_values", "Store values that could not be read", ["family"])
for _family in FAMILIES:
    DAMAGED.labels(_family)  # from 0 on: a counter that begins with 1 has not increased
EVENTS: Final = Counter("aigq_events", "Events taken in, by action", ["action"])
REJECTED: Final = Counter("aigq_events_rejected", "Events refused", ["why"])
IMPRESSIONS_LOST: Final = Counter("aigq_impressions_lost", "Impressions that could not be logged")
PUBLISHED: Final = Gauge(
    "aigq_table_published_timestamp_seconds",
    "When the served table was published",
    multiprocess_mode="livemax",
)
DEAD: Final = Counter("aigq_dead_letters", "Events set aside by the worker")
APPLIED: Final = Counter("aigq_events_applied", "Events that the worker applied to user states")
GENERATED: Final = Counter("aigq_generated_users", "Users that lists were written for")
DEFERRED: Final = Counter("aigq_signals_not_generated", "Signals without a generation", ["why"])
GENERATION_SECONDS: Final = Histogram("aigq_generation_seconds", "Time of one batch of the generator")
FRESHNESS: Final = Histogram(
    "aigq_freshness_seconds",
    "From the arrival of a signal to its new list in the store",
    buckets=(0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300),
)
BACKLOG: Final = Gauge("aigq_backlog_messages", "Messages of the log that are not applied yet")
BACKLOG_AGE: Final = Gauge("aigq_backlog_oldest_seconds", "Age of the oldest of them")
