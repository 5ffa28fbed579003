"""The tiny shop behind a real server, and a look into its store from outside."""

from serving_helpers import run

from aigq.serving import keys
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.state import Live, U2q, intact
from aigq.serving.stores import open_store


def opened(url, work):
    """The result of a coroutine function that gets the store."""

    async def main():
        store = open_store(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return run(main())


def put_on_line(shop_run, url):
    """Publish the tiny shop."""
    families = RunTables(shop_run.config, shop_run.folder).families
    opened(url, lambda store: publish(shop_run.config, store, families))


def stored(url, kind, key):
    """A value of the store; None when it is missing or damaged."""
    return intact(kind, opened(url, lambda store: store.get([key]))[0])


def lists(url, user):
    """The queries of a user's generated lists, newest first."""
    return [{hint.query for hint in one.hints} for one in (stored(url, U2q, keys.u2q(user)) or U2q()).runs]


def behaviours(url, user):
    """What a user did, as the live state has it."""
    return [past.text for past in (stored(url, Live, keys.live(user)) or Live()).past]


def hints(client, **params):
    response = client.get("/v1/hints", params=params)
    assert response.status_code == 200, response.text
    return response.json()["hints"]


def first_channel(client, user):
    return hints(client, user=user, n=1)[0]["channel"]


def event(user, query):
    return {"action_name": "search", "user_id": user, "user_query": query}


def searched(client, user, query):
    """The status of an event."""
    return client.post("/v1/events", json=event(user, query)).status_code


def counted(client, name):
    """A counter of the service, by its labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name + "{")]
    return {line.split("{")[1].split("}")[0]: float(line.split()[-1]) for line in lines}


def published(client):
    """When the table was published that the service has in memory."""
    name = "aigq_table_published_timestamp_seconds"
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])
