import os
import uuid

import pytest
from serving_helpers import KafkaServer, make_run

from aigq.prepared import Prepared


@pytest.fixture
def redis_url(redis_server):
    redis_server.cli("flushall")
    return redis_server.url


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory):
    pytest.importorskip("aiokafka")
    if "AIGQ_TEST_KAFKA" not in os.environ:
        pytest.importorskip("noida_db")
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


@pytest.fixture
def kafka_url(kafka_server):
    return f"kafka://{kafka_server.address}/test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def shop_run(tmp_path_factory):
    """A prepared run of the tiny shop; nobody writes into it."""
    return make_run(tmp_path_factory.mktemp("shop") / "run")


@pytest.fixture(scope="session")
def prepared_shop(shop_run):
    return Prepared.load(shop_run.folder / "prepared")
