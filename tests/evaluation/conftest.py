import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "recall"))  # recall_shop, shared with the tests of recall
