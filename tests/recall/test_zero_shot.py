import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from channel_contract import K_USERS, check
from hypothesis import given
from hypothesis import strategies as st

from aigq.config_recall import LlmConfig
from aigq.errors import StageError, UsageError
from aigq.evaluation.lists import make_lists
from aigq.prepared import Prepared
from aigq.recall.answers import MAX_QUERY_CHARACTERS, content_key, parse_queries
from aigq.recall.channel import RowMissing
from aigq.recall.llm import LlmClient, NoAnswer
from aigq.recall.only_new import OnlyNew
from aigq.recall.zero_shot import ZeroShot, prompt_of

pytest.importorskip("openai")
LENGTH = 30
ANSWER = (
    'Sure! Here are some:\n1. **Ski gloves**\n2) "snow boots"\n3. a secret of mine\n4. ski gloves\n5. made up'
)


@dataclass
class Endpoint:
    url: str = ""
    statuses: list[int] = field(default_factory=list)  # answered first, before any 200
    requests: list[dict] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)  # parameter -> code of the refusal
    bodies: list[bytes] = field(default_factory=list)  # sent in place of the first answers


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            status = state.statuses.pop(0) if state.statuses else 200
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
                ],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
            }
            error = {"message": "not now"}
            for name, code in state.unsupported.items():
                if name in body:
                    status, error = 400, {"message": f"no '{name}' here", "param": name, "code": code}
            payload = json.dumps(answer if status == 200 else {"error": error}).encode()
            if status == 200 and state.bodies:
                payload = state.bodies.pop(0)
            self.send_response(status)
            html = payload.startswith(b"<")
            self.send_header("Content-Type", "text/html" if html else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


def make(endpoint: Endpoint, folder: Path, waits: list[float] | None = None, **keys: object) -> ZeroShot:
    config = LlmConfig(base_url=endpoint.url, model="tiny", **keys)
    kept = waits if waits is not None else []
    return ZeroShot(
        "zero_shot:tiny",
        config,
        K_USERS,
        LENGTH,
        folder / "answers.sqlite",
        lambda _, seconds: kept.append(seconds),
    )


def test_contract(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    check(make(endpoint, tmp_path), prepared)


def test_asks_once_and_never_again(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    moments = prepared.moments(prepared.split("test"))[:6]
    channel = make(endpoint, tmp_path)
    channel.fit(prepared)
    lists = channel.recommend(moments, 30)
    assert [h.query for h in lists[0]] == ["ski gloves", "snow boots"]
    asked = len(endpoint.requests)
    assert 1 <= asked <= 6
    assert endpoint.requests[0]["messages"][1]["content"].count("searched for") > 0
    again = make(endpoint, tmp_path)
    again.fit(prepared)
    assert again.recommend(moments, 30) == lists
    assert len(endpoint.requests) == asked
    assert again.spent_usd == 0


def test_retries_with_growing_waits(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    endpoint.statuses = [503, 429, 500]
    waits: list[float] = []
    channel = make(endpoint, tmp_path, waits)
    channel.fit(prepared)
    assert channel.recommend(prepared.moments(prepared.split("test"))[:1], 5)[0]
    assert waits == [0.5, 1.0, 2.0]


def test_gives_up_with_a_clear_message(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    moments = prepared.moments(prepared.split("test"))[:1]
    endpoint.statuses = [500] * 3
    channel = make(endpoint, tmp_path, retries=2)
    channel.fit(prepared)
    with pytest.raises(RowMissing, match="no answer in 3 attempts"):
        channel.recommend(moments, 5)
    endpoint.statuses = [401]
    with pytest.raises(StageError, match=r"(?s)status 401.*OPENAI_API_KEY"):
        channel.recommend(moments, 5)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>please log in</html>", "please log in"),
        (b'{"error": {"message": "upstream is busy", "code": 429}}', "upstream is busy"),
        (b'{"choices": [{"mess', "Unterminated string"),
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"null", "None"),
        (b"[]", r"\[\]"),
        (b'{"choices": []}', r"choices=\[\]"),
        (b'{"choices": {"0": 1}}', "choices={"),
        (b'{"choices": [{"index": 0, "message": null}]}', "message=None"),
        (b'{"choices": [{"index": 0, "message": {"content": [1]}}]}', r"content=\[1\]"),
    ],
)
def test_what_is_no_answer_is_asked_again_and_never_kept(
    endpoint: Endpoint, tmp_path: Path, body: bytes, said: str
) -> None:
    waits: list[float] = []
    config = LlmConfig(base_url=endpoint.url, model="tiny", retries=1)
    client = LlmClient("row", config, "", tmp_path / "answers.sqlite", lambda _, s: waits.append(s))
    endpoint.bodies = [body] * 2
    with pytest.raises(NoAnswer, match=f"no answer in 2 attempts .*{said}"):
        client.ask(["hi"])
    assert client.asked == 0
    endpoint.bodies = [body]
    assert client.ask(["hi"]) == [ANSWER]
    assert (client.asked, waits) == (1, [0.5, 0.5])


def test_an_empty_answer_is_one(endpoint: Endpoint, tmp_path: Path) -> None:
    """As of a model that spent all its tokens on thoughts."""
    endpoint.bodies = [b'{"choices": [{"index": 0, "message": {"content": null}}]}']
    client = LlmClient("row", LlmConfig(base_url=endpoint.url, model="tiny"), "", tmp_path / "answers.sqlite")
    assert [client.ask(["hi"]), client.ask(["hi"])] == [[""], [""]]
    assert client.asked == 1


def test_half_an_emoji_is_kept_as_a_question_mark(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.bodies = [b'{"choices": [{"index": 0, "message": {"content": "1. ski \\ud83d"}}]}']
    client = LlmClient("row", LlmConfig(base_url=endpoint.url, model="tiny"), "", tmp_path / "answers.sqlite")
    assert [client.ask(["hi"]), client.ask(["hi"])] == [["1. ski ?"]] * 2


@pytest.mark.parametrize(
    "usage", ["null", '{"prompt_tokens": 5}', '{"prompt_tokens": 5, "completion_tokens": "?"}']
)
def test_an_answer_whose_tokens_are_not_counted_costs_the_worst_case(
    endpoint: Endpoint, tmp_path: Path, usage: str
) -> None:
    answer = '{"choices": [{"index": 0, "message": {"content": "1. ski"}}], "usage": '
    endpoint.bodies = [f"{answer}{usage}}}".encode()]
    config = LlmConfig(base_url=endpoint.url, model="tiny", max_tokens=100, usd_per_million_output=1e4)
    client = LlmClient("row", config, "", tmp_path / "answers.sqlite")
    assert client.ask(["hi"]) == ["1. ski"]
    assert client.spent_usd == 1.0


def test_a_refusal_ends_the_waits_of_other_questions(endpoint: Endpoint, tmp_path: Path) -> None:
    config = LlmConfig(base_url=endpoint.url, model="tiny", concurrency=2)
    stopped: list[bool] = []

    def wait(stop: threading.Event, _: float) -> None:
        stopped.append(stop.wait(20))

    client = LlmClient("row", config, "", tmp_path / "answers.sqlite", wait)
    endpoint.statuses = [503, 401] + [503] * 20
    with pytest.raises(StageError, match="status 401"):
        client.ask([f"{i}" for i in range(8)])
    assert all(stopped)
    assert len(endpoint.requests) <= 3, "the thread that was refused may have begun one more"
    endpoint.statuses = []
    assert client.ask(["hi"]) == [ANSWER]


def test_ctrl_c_sends_nothing_more(endpoint: Endpoint, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    stopped: list[bool] = []

    def wait(stop: threading.Event, _: float) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        stopped.append(stop.wait(20))

    config = LlmConfig(base_url=endpoint.url, model="tiny", concurrency=1)
    client = LlmClient("row", config, "", tmp_path / "answers.sqlite", wait)
    endpoint.statuses = [503] * 20
    with pytest.raises(KeyboardInterrupt):
        client.ask(["hi", "you"])
    assert stopped == [True]
    assert len(endpoint.requests) == 1


def test_a_table_goes_without_an_endpoint_that_is_not_there_but_not_without_one_that_went_silent(
    endpoint: Endpoint, prepared: Prepared, tmp_path: Path
) -> None:
    moments = prepared.moments(prepared.split("test"))[:2]
    channel = make(endpoint, tmp_path, retries=0, concurrency=1)
    channel.fit(prepared)
    assert channel.recommend(moments[:1], 5)[0]
    endpoint.statuses = [500]
    with pytest.raises(StageError, match="run again to continue"):
        channel.recommend(moments[1:], 5)


def test_parameters_that_a_model_does_not_know_are_left_out(
    endpoint: Endpoint, prepared: Prepared, tmp_path: Path
) -> None:
    endpoint.unsupported = {"max_tokens": "unsupported_parameter", "temperature": "unsupported_value"}
    channel = make(endpoint, tmp_path, concurrency=1, retries=0)
    channel.fit(prepared)
    lists = channel.recommend(prepared.moments(prepared.split("test"))[:3], 5)
    assert all(lists)
    assert len(endpoint.requests) == 5, "both refusals are learned once, not with each question"
    assert [r.get("max_completion_tokens") for r in endpoint.requests[2:]] == [400] * 3
    assert not any({"max_tokens", "temperature"} & set(r) for r in endpoint.requests[2:])


@pytest.mark.parametrize(
    "unsupported",
    [
        {"max_tokens": "invalid_value"},  # known, but this number is too large
        {"max_tokens": "unsupported_parameter", "max_completion_tokens": "unsupported_parameter"},
    ],
)
def test_nothing_is_asked_without_a_limit_of_tokens(
    endpoint: Endpoint, prepared: Prepared, tmp_path: Path, unsupported: dict[str, str]
) -> None:
    endpoint.unsupported = unsupported
    channel = make(endpoint, tmp_path)
    channel.fit(prepared)
    with pytest.raises(StageError, match=r"status 400.*no 'max"):
        channel.recommend(prepared.moments(prepared.split("test"))[:1], 5)
    assert all("max_tokens" in r or "max_completion_tokens" in r for r in endpoint.requests)


def test_cost_cap_stops_before_it_is_passed(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    moments = prepared.moments(prepared.split("test"))[:8]
    prices = {
        "usd_per_million_input": 1.0,
        "usd_per_million_output": 1.0,
        "max_tokens": 500,
        "concurrency": 3,
    }
    channel = make(endpoint, tmp_path, max_cost_usd=0.005, **prices)
    channel.fit(prepared)
    lists = channel.recommend(moments, 5)
    assert 0 < channel.asked < 8
    assert channel.spent_usd <= 0.005
    assert sum(map(bool, lists)) == channel.asked
    with pytest.raises(UsageError, match="usd_per_million"):
        make(endpoint, tmp_path, max_cost_usd=1.0).fit(prepared)


def test_only_the_first_samples_are_asked(endpoint: Endpoint, prepared: Prepared, tmp_path: Path) -> None:
    channel = make(endpoint, tmp_path, max_users=2)
    channel.fit(prepared)
    lists = channel.recommend(prepared.moments(prepared.split("test"))[:5], 5)
    assert [bool(hints) for hints in lists] == [True, True, False, False, False]


def test_the_first_samples_are_counted_over_the_chunks_of_a_table(
    endpoint: Endpoint, prepared: Prepared, tmp_path: Path
) -> None:
    channel, samples = make(endpoint, tmp_path, max_users=3), prepared.split("test")
    made = make_lists("zero_shot:tiny", channel, prepared, samples, 5, lambda n: None, chunk=2)
    assert channel.asked == 3
    assert made.lists["sample_id"].unique().to_pylist() == samples["sample_id"].to_pylist()[:3]
    again = make_lists("zero_shot:tiny", channel, prepared, samples, 5, lambda n: None, chunk=2)
    assert again.lists.equals(made.lists)  # a fit begins anew


def test_a_shopper_is_asked_the_same_whoever_else_is_asked(
    endpoint: Endpoint, prepared: Prepared, tmp_path: Path
) -> None:
    """Rows `:new` ask for as many more queries as the longest history of their batch knows."""
    known = [m for m in prepared.moments(prepared.split("test")) if m.history.num_rows][:4]
    moments = [replace(m, history=m.history.slice(0, i + 1)) for i, m in enumerate(known)]
    assert len({len(moment.issued()) for moment in moments}) > 1
    channel = OnlyNew(make(endpoint, tmp_path))
    channel.fit(prepared)
    together = channel.recommend(moments, 5)
    asked = len(endpoint.requests)
    assert [channel.recommend([moment], 5)[0] for moment in moments] == together
    assert len(endpoint.requests) == asked


def test_prompt_holds_nothing_of_the_future(prepared: Prepared) -> None:
    moment = prepared.moments(prepared.split("test"))[0]
    prompt = prompt_of(moment, 7)
    assert "7 search queries" in prompt
    assert prompt.count("\n- ") == min(50, moment.history.num_rows)
    assert "today:" not in prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Milk\n2. Soft  Drink.", ["milk", "soft drink"]),
        ("Here you go:\n- milk\n* bread\n• eggs", ["milk", "bread", "eggs"]),
        ("<think>1. no</think>\n1) `milk`", ["milk"]),
        ('```json\n["milk", "bread", 3]\n```', ["milk", "bread"]),
        ("milk\nbread", ["milk", "bread"]),
        ("1. 2 liter soft drink\n2. 7up", ["2 liter soft drink", "7up"]),
        ("1.milk\n2.bread", ["milk", "bread"]),
        ("", []),
    ],
)
def test_parser_reads_many_shapes(text: str, expected: list[str]) -> None:
    assert parse_queries(text) == expected


@given(st.text(max_size=400))
def test_parser_takes_anything(text: str) -> None:
    queries = parse_queries(text)
    assert len(set(queries)) == len(queries)
    assert all(q == q.strip() and 0 < len(q) <= MAX_QUERY_CHARACTERS and "\n" not in q for q in queries)


WORDS = st.lists(
    st.from_regex(r"[a-z][a-z0-9]{0,8}( [a-z0-9]{1,8}){0,3}", fullmatch=True), min_size=1, unique=True
)


@given(WORDS, st.sampled_from(["{i}. {q}", "{i}) {q}", "- {q}", "{i}. **{q}**", '{i}: "{q}"', " {i}.  {q} "]))
def test_parser_recovers_every_list(queries: list[str], shape: str) -> None:
    text = "Of course, here they are\n" + "\n".join(shape.format(i=i, q=q) for i, q in enumerate(queries, 1))
    assert parse_queries(text) == queries


@given(st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_keys_keep_parts_apart(parts: list[str]) -> None:
    assert content_key(*parts) != content_key(*parts, "")
    assert content_key(*parts) == content_key(*parts)
