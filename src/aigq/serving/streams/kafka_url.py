"""What a Kafka URL says: brokers, topic, TLS and SASL.

kafka://HOST:PORT[,HOST:PORT...]/TOPIC
kafkas://USER:PASSWORD@HOST:PORT/TOPIC?sasl=SCRAM-SHA-512&ca=/etc/ssl/shop-ca.pem
"""

import os
import re
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from aigq.errors import UsageError

PASSWORD: Final = "AIGQ_KAFKA_PASSWORD"
"""The environment variable with the password, for those who do not want it in a URL."""

_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_FILES: Final = {"ca": "cafile", "cert": "certfile", "key": "keyfile"}
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


class Address(NamedTuple):
    """Where the log is. `options` are those of every aiokafka client, brokers included."""

    topic: str
    options: dict[str, Any]


def parse(url: str) -> Address:
    """Read a kafka:// or kafkas:// URL. Raises UsageError for anything that is not understood."""
    parts = urlsplit(url)
    query = _query(parts)
    login, _, hosts = parts.netloc.rpartition("@")
    servers = [host for host in hosts.split(",") if host]
    topic = parts.path.strip("/")
    if not servers or not _TOPIC.fullmatch(topic):
        raise UsageError("a Kafka log needs brokers and a topic: kafka://HOST:9092,HOST:9092/TOPIC")
    options: dict[str, Any] = {"bootstrap_servers": servers}
    tls = parts.scheme == "kafkas"
    if tls:
        options["ssl_context"] = _tls({_FILES[name]: query[name] for name in _FILES if name in query})
    elif wrong := [name for name in _FILES if name in query]:
        raise UsageError(f"{wrong[0]}= is for TLS: kafkas://")
    options |= _sasl(login, query.get("sasl"))
    options["security_protocol"] = ("SASL_" if login else "") + ("SSL" if tls else "PLAINTEXT")
    return Address(topic, options)


def _query(parts: SplitResult) -> dict[str, str]:
    found = parse_qs(parts.query, keep_blank_values=True)
    for name in found:
        if name not in (*_FILES, "sasl"):
            raise UsageError(f"a Kafka URL has no parameter {name!r}; known: ca, cert, key, sasl")
    return {name: values[-1] for name, values in found.items()}


def _tls(files: dict[str, str]) -> Any:
    from aiokafka.helpers import create_ssl_context

    try:
        return create_ssl_context(**files)
    except (OSError, ValueError) as error:
        raise UsageError(f"the TLS files of the Kafka URL cannot be used: {error}") from None


def _sasl(login: str, mechanism: str | None) -> dict[str, Any]:
    if not login:
        if mechanism is not None:
            raise UsageError("sasl= needs a user: kafkas://USER:PASSWORD@HOST:9092/TOPIC")
        return {}
    user, _, password = login.partition(":")
    password = unquote(password) or os.environ.get(PASSWORD, "")
    if not password:
        raise UsageError(f"the Kafka user {unquote(user)} has no password; put it into {PASSWORD}")
    if (mechanism or "PLAIN") not in _MECHANISMS:
        raise UsageError(f"sasl={mechanism} is not known; known: {', '.join(_MECHANISMS)}")
    return {
        "sasl_mechanism": mechanism or "PLAIN",
        "sasl_plain_username": unquote(user),
        "sasl_plain_password": password,
    }
