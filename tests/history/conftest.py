import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "samples"))  # small_logs, shared with the tests of samples
