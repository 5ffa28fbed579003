import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "recall")]

from serving_helpers import RedisServer, make_run

from aigq.prepared import Prepared


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server):
    redis_server.cli("flushall")
    return redis_server.url


@pytest.fixture(scope="session")
def shop_run(tmp_path_factory):
    """A prepared run of the tiny shop; nobody writes into it."""
    return make_run(tmp_path_factory.mktemp("shop") / "run")


@pytest.fixture(scope="session")
def prepared_shop(shop_run):
    return Prepared.load(shop_run.folder / "prepared")
