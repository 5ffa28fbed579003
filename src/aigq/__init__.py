"""aigq: pre-search query recommendation, learned from a shop's own logs.

Importing this package is cheap on purpose: no torch, no transformers, no DuckDB.
"""

__version__ = "0.1.0"
