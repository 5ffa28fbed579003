"""The web component and the storefront in real Chromium, against a real `aigq serve --demo`."""

import gzip
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_helpers import aigq, free_port, run, serving, wait_for

from aigq.serving import demo, keys
from aigq.serving.state import Event, Live, decode
from aigq.serving.stores import open_store
from aigq.serving.streams import open_log

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")
WIDGET = Path(demo.__file__).parent / "widget" / "aigq-search-hints.js"
BODY = '<form id="form"><input id="box" placeholder="Find"></form>'
OTHER = "http://localhost:1234"  # another origin than the service; its pages come from this file
ARGUMENTS = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"]  # OTHER may call 127.0.0.1
BOX, LIST, OPTIONS = "#box", "[role=listbox]", "[role=option]"


@pytest.fixture(scope="module")
def shop(shop_run, tmp_path_factory):
    """A client of the service, and the URLs of its store and log."""
    folder = tmp_path_factory.mktemp("demo")
    store, log = f"lmdb:{folder}/store?map_gb=1", f"sqlite:{folder}/log.sqlite"
    options = ["--run", shop_run.folder, "--store", store]
    aigq("publish", *options)
    settings = ["--set", "serving.deadline_ms=2000", "--set", f"serving.cors_origins=[{OTHER}]"]
    with serving(*options, "--log", log, "--demo", *settings) as (client, _):
        yield client, store, log


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that fails the test when a script throws or a policy is broken."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.set_default_timeout(8000)
    troubles = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda m: "Content Security" in m.text and troubles.append(m.text))
    yield page
    context.close()
    assert troubles == []


def embed(page, base, attributes, body=BODY, wait=True):
    """Open a shop's page with the component under `base`; returns the posted events."""
    posted = []
    html = (
        "<!doctype html><html lang=en><script type=module src=/demo/aigq-search-hints.js></script>"
        f"<aigq-search-hints {attributes}>{body}</aigq-search-hints><p>shop</p></html>"
    )
    page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.on("request", lambda r: r.url.endswith("/v1/events") and posted.append(json.loads(r.post_data)))
    page.goto(f"{base}/page")
    if wait:
        page.wait_for_selector(OPTIONS, state="attached")
    return posted


def elsewhere(work):
    """Run a coroutine in a thread: playwright has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: run(work())).result()


def live(store_url, user):
    async def read():
        store = open_store(store_url)
        value = (await store.get([keys.live(user)]))[0]
        await store.close()
        return decode(Live, value) or Live()

    return elsewhere(read)


def shown(store_url, user, action):
    return [s.query for s in live(store_url, user).shown if s.action == action]


def active(page):
    return page.evaluate(
        "document.getElementById(document.querySelector('#box').getAttribute('aria-activedescendant'))"
        "?.querySelector('.aigq-query').textContent ?? null"
    )


def queries(page):
    return page.locator(".aigq-query").all_text_contents()


def test_the_component_is_small_and_asks_nobody_else():
    source = WIDGET.read_bytes()
    assert len(gzip.compress(source, 9)) < 6 * 1024
    text = source.decode()
    assert not re.search(
        r"\bimport\b|https?://|\beval\b|\.innerHTML|insertAdjacentHTML|document\.write", text
    )


@in_browser
def test_a_list_on_focus_with_reasons(page, shop):
    embed(page, shop[0].base_url, 'user="u00" n="3"')
    box = page.locator(BOX)
    assert (box.get_attribute("role"), box.get_attribute("aria-expanded")) == ("combobox", "false")
    assert not page.locator(LIST).is_visible()
    served = shop[0].get("/v1/hints", params={"user": "u00", "n": 3}).json()["hints"]
    assert box.get_attribute("placeholder") == served[0]["query"]
    box.focus()
    assert page.locator(LIST).is_visible()
    assert box.get_attribute("aria-expanded") == "true"
    assert page.locator(f"#{box.get_attribute('aria-controls')}").get_attribute("role") == "listbox"
    assert queries(page) == [hint["query"] for hint in served]
    assert page.locator(".aigq-reason").all_text_contents() == [hint["reason"] for hint in served]
    assert re.fullmatch(r"you looked for this \d+ times", served[0]["reason"])
    page.keyboard.type("x")  # from here on the shop's own completion is asked
    assert not page.locator(LIST).is_visible()
    page.keyboard.press("Backspace")
    assert page.locator(LIST).is_visible()
    page.mouse.click(500, 700)
    assert box.get_attribute("aria-expanded") == "false"


@in_browser
def test_keyboard(page, shop):
    embed(page, shop[0].base_url, 'user="u02" n="3"')
    page.evaluate(
        "() => { box.name = 'q'; form.onsubmit = (e) => { e.preventDefault(); "
        "window.sent = new FormData(form).get('q') } }"
    )
    first, second, third = queries(page)
    page.locator(BOX).focus()
    walked = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        walked.append(active(page))
    assert walked == [first, second, first, None, third]
    assert page.locator("[aria-selected=true] .aigq-query").all_text_contents() == [third]
    page.keyboard.press("Escape")
    assert not page.locator(LIST).is_visible()
    assert active(page) is None
    page.keyboard.press("ArrowDown")  # opens again
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(BOX).input_value() == page.evaluate("sent") == second
    assert not page.locator(LIST).is_visible()
    wait_for(lambda: shown(shop[1], "u02", "hint_click") == [second])


@in_browser
@pytest.mark.parametrize("colours", ["none", "active"])
def test_the_chosen_hint_stands_out_in_every_colour_scheme(page, shop, colours):
    page.emulate_media(forced_colors=colours)  # "active": the system's colours, no backgrounds
    embed(page, shop[0].base_url, 'n="3"')
    page.locator(BOX).focus()
    page.keyboard.press("ArrowDown")
    outlines = page.locator(OPTIONS).evaluate_all("all => all.map(o => getComputedStyle(o).outlineStyle)")
    assert outlines == ["solid", "none", "none"]


@in_browser
def test_a_click_fills_submits_and_posts(page, shop):
    posted = embed(page, shop[0].base_url, 'user="u04" surface="home" n="3"')
    page.evaluate("() => { box.name = 'q' }")
    chosen = queries(page)[1]
    page.locator(BOX).focus()
    with page.expect_navigation():  # the form goes to the shop's own search page
        page.locator(".aigq-query").nth(1).click()
    assert page.url.endswith(f"?q={chosen.replace(' ', '+')}")
    wait_for(lambda: shown(shop[1], "u04", "hint_click") == [chosen])
    (click,) = [e for batch in posted for e in batch if e["action_name"] == "hint_click"]
    assert (click["user_id"], click["user_query"]) == ("u04", chosen)
    assert click["event_attributes"] == {"position": {"ordinal": 2}, "surface": "home"}
    assert len(click["query_id"]) == 32  # the request that the service answered


@in_browser
def test_without_a_form_and_an_input(page, shop):
    embed(page, shop[0].base_url, 'user="u06" n="2"', body="")
    page.evaluate("() => document.addEventListener('aigq-search', (e) => { window.told = e.detail })")
    page.get_by_role("combobox", name="Search").focus()
    page.locator(OPTIONS).first.click()
    told = page.evaluate("told")
    assert told["query"] == page.get_by_role("combobox", name="Search").input_value()
    assert (told["position"], told["channel"]) == (1, "personal")


@in_browser
def test_not_interested_hides_and_posts(page, shop):
    embed(page, shop[0].base_url, 'user="u08" n="4"')
    first, second, third, fourth = queries(page)
    page.locator(BOX).focus()
    page.get_by_label(f"Not interested: {second}").click()
    assert queries(page) == [first, third, fourth]
    assert page.locator(LIST).is_visible()  # one goes on looking
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    assert queries(page) == [third, fourth]
    assert active(page) == third
    wait_for(lambda: sorted(shown(shop[1], "u08", "hint_dismiss")) == sorted([first, second]))
    page.reload()
    page.wait_for_selector(OPTIONS, state="attached")
    assert not {first, second} & set(queries(page))


@in_browser
def test_impressions_of_what_was_seen_once(page, shop):
    posted = embed(page, shop[0].base_url, 'session="s1" n="4"')
    page.wait_for_timeout(700)
    assert posted == []  # a closed list is not seen
    page.add_style_tag(content="aigq-search-hints .aigq-list { max-height: 90px; padding: 0 }")
    page.locator(BOX).focus()
    wait_for(lambda: page.wait_for_timeout(50) or posted)
    (batch,) = posted
    assert {e["action_name"] for e in batch} == {"hint_impression"}
    assert {e["session_id"] for e in batch} == {"s1"}
    assert [e["user_query"] for e in batch] == queries(page)[: len(batch)]
    assert 1 <= len(batch) < 4  # the others are below the fold of the list
    for _ in range(2):
        page.keyboard.press("Escape")
        page.locator(BOX).click()
    page.wait_for_timeout(700)
    assert posted == [batch]
    page.keyboard.press("ArrowUp")  # the last one is scrolled into view
    wait_for(lambda: page.wait_for_timeout(50) or len(posted) > 1)
    seen = [e["user_query"] for one in posted for e in one]
    assert len(seen) == len(set(seen))
    assert seen[-1] == queries(page)[-1]

    async def logged():
        log = open_log(shop[2])
        records = await log.read("reader", list(range(16)), 10_000, {})
        await log.close()
        events = [decode(Event, r.body) for r in records if r.user == "session:s1"]
        return [e.query for e in events if e.action == "hint_impression" and e.hints is None]

    wait_for(lambda: sorted(elsewhere(logged)) == sorted(seen))


@in_browser
def test_the_search_field_is_found_among_others(page, shop):
    others = '<input type="hidden" name="token"><input type="checkbox">'
    embed(page, shop[0].base_url, "", body=f'<form>{others}<input id="box"></form>')
    assert page.locator("[role=combobox]").evaluate_all("boxes => boxes.map(b => b.id)") == ["box"]
    page.locator(BOX).focus()
    assert page.locator(LIST).is_visible()


NONSENSE = {
    "nonsense": "<html>",
    "null": "null",
    "no hints": '{"request_id": "r1", "hints": [null]}',
    "half a hint": '{"request_id": "r1", "hints": [{"query": "sled"}, {"position": 2}]}',
}


@in_browser
@pytest.mark.parametrize("fault", ["refused", "error", *NONSENSE])
def test_a_service_that_is_down(page, shop, fault):
    endpoint = f'endpoint="http://127.0.0.1:{free_port()}"' if fault == "refused" else ""
    if fault == "error":
        page.route("**/v1/hints?*", lambda route: route.fulfill(status=503, body="{}"))
    if fault in NONSENSE:
        page.route("**/v1/hints?*", lambda route: route.fulfill(body=NONSENSE[fault]))
    embed(page, shop[0].base_url, f'user="u10" {endpoint}', wait=False)
    page.evaluate("customElements.whenDefined('aigq-search-hints')")
    told = page.evaluate("document.querySelector('aigq-search-hints').refresh().then(() => 'settled')")
    assert told == "settled"
    page.locator(BOX).click()
    page.keyboard.press("ArrowDown")
    page.keyboard.type("sled")
    assert page.locator(BOX).input_value() == "sled"
    assert page.locator(BOX).get_attribute("placeholder") == "Find"
    assert not page.locator(LIST).is_visible()
    assert page.locator(BOX).get_attribute("aria-expanded") == "false"


@in_browser
def test_text_is_text(page, shop):
    evil = '<img src=x onerror="window.hacked=1">'
    hint = {"query": evil, "position": 1, "channel": '"><script>', "reason": f"because you viewed {evil}"}
    answer = json.dumps({"request_id": "r1", "hints": [hint]})
    page.route("**/v1/hints?*", lambda route: route.fulfill(body=answer))
    embed(page, shop[0].base_url, 'user="u12"')
    page.locator(BOX).focus()
    assert queries(page) == [evil]
    assert page.locator(".aigq-reason").text_content() == hint["reason"]
    assert page.locator("aigq-search-hints img, aigq-search-hints script").count() == 0
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None


@in_browser
def test_right_to_left_mirrors_a_hint(page, shop):
    embed(page, shop[0].base_url, 'n="1"')
    page.locator(BOX).focus()

    def margins():
        return page.evaluate(
            "() => { const [o, t] = ['.aigq-hint', '.aigq-text'].map((name) => "
            "document.querySelector(name).getBoundingClientRect()); "
            "return [t.left - o.left, o.right - t.right] }"
        )

    left_to_right = margins()
    page.evaluate("document.documentElement.dir = 'rtl'")
    assert margins() == left_to_right[::-1]


@in_browser
def test_the_placeholder_rotates_unless_motion_is_unwanted(page, shop):
    page.clock.install()
    embed(page, shop[0].base_url, 'user="u14" n="3"')
    names = queries(page)

    def turns():
        seen = []
        for _ in range(4):
            seen.append(page.locator(BOX).get_attribute("placeholder"))
            page.clock.run_for(4000)
        return seen

    assert turns() == [*names, names[0]]
    page.emulate_media(reduced_motion="reduce")
    assert len(set(turns())) == 1


@in_browser
def test_the_storefront(page, shop):
    client, _, _ = shop
    foreign = []
    page.on("request", lambda r: r.url.startswith(str(client.base_url)) or foreign.append(r.url))
    page.goto(f"{client.base_url}/demo/")
    page.get_by_label("Someone new").check(force=True)
    wait_for(lambda: page.locator("#hints .popular").count() == 8)
    wait_for(lambda: page.locator("#history").text_content() == "Nothing yet.")  # asked for after the hints
    assert page.locator("#hints .reason").first.text_content() == "popular in the shop these days"
    page.get_by_label("Search the shop").fill("sled")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Results for “sled”')")
    wait_for(lambda: page.locator("#history .text").all_text_contents() == ["sled"])
    wait_for(lambda: page.locator("#hints .reason:has-text('goes with “sled”')").count() > 0)
    assert "sled" not in page.locator("#hints .query").all_text_contents()  # just searched
    page.locator("#items .view").first.click()
    wait_for(lambda: page.locator("#history .action").all_text_contents() == ["click", "search"])
    page.get_by_label(re.compile("^u0")).first.check(force=True)
    wait_for(lambda: page.locator("#hints .personal").count() > 0)
    assert foreign == []


@in_browser
def test_the_storefront_fits_a_narrow_window(page, shop):
    hint = {"query": "x" * 200, "position": 1, "channel": "popular", "reason": "y" * 200}
    answer = json.dumps({"request_id": "r1", "hints": [hint]})
    page.route("**/v1/hints?*", lambda route: route.fulfill(body=answer))
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{shop[0].base_url}/demo/")
    page.wait_for_selector("#hints .query")
    page.wait_for_selector("#items li")
    assert page.evaluate("document.documentElement.scrollWidth") == 320


@in_browser
def test_another_origin_with_a_key(page, shop):
    sent = []
    page.route("**/demo/*.js", lambda route: route.fulfill(path=WIDGET))
    page.on("request", lambda r: "/v1/" in r.url and sent.append((r.method, r.headers.get("x-api-key"))))
    embed(page, OTHER, f'user="u10" api-key="k1" n="1" endpoint="{shop[0].base_url}/"')
    chosen = queries(page)[0]
    page.locator(BOX).focus()
    page.locator(OPTIONS).click()
    wait_for(lambda: shown(shop[1], "u10", "hint_click") == [chosen])
    assert {("GET", "k1"), ("POST", "k1")} <= set(sent)


@in_browser
def test_another_shopper_is_asked_for_at_once(page, shop):
    asked = []
    page.on("request", lambda r: "/v1/hints" in r.url and asked.append(r.url))
    embed(page, shop[0].base_url, 'user="u00" n="3"')
    before = queries(page)
    page.evaluate(
        "() => { const e = document.querySelector('aigq-search-hints'); e.setAttribute('n', '2'); "
        "e.setAttribute('user', 'u01') }"
    )
    wait_for(lambda: len(queries(page)) == 2)
    assert not set(before) & set(queries(page))  # the sea and the snow
    assert len(asked) == 2


def test_the_demo_shows_published_shoppers_only_where_it_is_safe(shop, shop_run, tmp_path):
    client, _, _ = shop
    shoppers = client.get("/demo/api/shoppers").json()
    assert len({s["favourite"] for s in shoppers}) == len(shoppers) >= 3
    past = client.get("/demo/api/history", params={"user": shoppers[0]["user"]}).json()["past"]
    assert past == sorted(past, key=lambda p: -p["at"])
    assert len(past) == 15
    assert client.get("/demo/api/items", params={"words": "sled"}).json()[0]["text"] == "sled"
    assert client.get("/demo/..%2fserver.py").status_code == 404
    assert not [path for path in client.get("/schema/openapi.json").json()["paths"] if "demo" in path]
    (tmp_path / "keys.yaml").write_text(f"[{{name: a, sha256: {'a' * 64}, roles: [read]}}]")
    for wrong in (f"serving.keys_file={tmp_path}/keys.yaml", "serving.hash_users_with=PATH"):
        done = aigq("serve", "--run", shop_run.folder, "--demo", "--set", wrong, check=False)
        assert (done.returncode, "--demo" in done.stderr) == (2, True), done.stderr


def test_the_demo_answers_to_names_of_this_machine_only(shop):
    client, _, _ = shop
    for path in ("/demo/", "/demo/api/shoppers", "/v1/hints"):
        for host in ("127.0.0.1", "localhost:9000", "[::1]:8080"):
            assert client.get(path, headers={"host": host}).status_code == 200
        for host in ("shop.example", "127.0.0.1.shop.example:8080", "10.0.0.1", "[::1", ":80"):
            answer = client.get(path, headers={"host": host})
            assert (answer.status_code, "--demo" in answer.json()["detail"]) == (403, True), host


def test_without_demo_there_is_no_storefront(shop_run):
    with serving("--run", shop_run.folder, "--store", "memory:", "--log", "memory:") as (client, _):
        assert client.get(f"{demo.PATH}/").status_code == 404
        assert client.get(f"{demo.PATH}/api/history", params={"user": "u00"}).status_code == 404
        proxied = client.get("/v1/hints", headers={"host": "shop.example", "origin": "https://shop.example"})
        assert proxied.status_code == 200
