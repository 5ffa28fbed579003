"""From a log format to tables: `import_source` writes events, items, users and rejected."""

from aigq.sources.importing import SOURCES, import_source
from aigq.sources.summary import ImportSummary, render

__all__ = ["SOURCES", "ImportSummary", "import_source", "render"]
