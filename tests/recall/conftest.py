import pytest
from recall_shop import build

from aigq.prepared import Prepared


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    return build()
