"""A log format becomes tables: `import_source` reads one of SOURCES and writes events, items, users, rejected."""

from aigq.sources.importing import SOURCES, import_source
from aigq.sources.summary import ImportSummary, render

__all__ = ["SOURCES", "ImportSummary", "import_source", "render"]
