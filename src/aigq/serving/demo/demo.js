// The storefront of `aigq serve --demo`: what a shop's page does around <aigq-search-hints>, and a look behind it.

const POLL_MS = 1000;
const at = (id) => document.getElementById(id);
const box = document.querySelector("aigq-search-hints");
const form = box.querySelector("form");
const session = crypto.randomUUID();

let user = ""; // "": anonymous
let before; // the queries of the last answer
let written = 0; // when the worker wrote the newest list that the page has seen

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

async function read(path, query = {}) {
  try {
    const response = await fetch(`/demo/api/${path}?${new URLSearchParams(query)}`);
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined; // the service is down: the page stays as it is
  }
}

// --- events, as a shop's page would send them ---

async function tell(action_name, about) {
  const who = user ? { user_id: user } : { session_id: session };
  const body = JSON.stringify({ action_name, ...who, ...about });
  const headers = { "content-type": "application/json" };
  try {
    await fetch("/v1/events", { method: "POST", body, headers });
  } catch {
    return; // the service is down: nothing to refresh
  }
  await Promise.all([box.refresh(), showHistory()]);
}

const about = (item) => ({ event_attributes: { object: { object_id: item.id, title: item.text } } });

async function search(query) {
  form.q.value = "";
  form.q.blur();
  await Promise.all([tell("search", { user_query: query }), showItems(query, `Results for “${query}”`)]);
}

// --- what is on the page ---

async function showItems(query, title) {
  const items = (await read("items", { words: query })) ?? [];
  at("title").textContent = title;
  at("empty").hidden = items.length > 0;
  at("items").replaceChildren(...items.map(card));
}

function card(item) {
  const made = make("li", "");
  const view = make("button", "view");
  const tile = make("span", "tile", [...item.text][0].toUpperCase());
  const cart = make("button", "cart", "Add to cart");
  const hue = [...(item.category ?? item.text)].reduce((sum, char) => sum * 31 + char.codePointAt(0), 7) % 360;
  tile.style.setProperty("--hue", hue);
  tile.setAttribute("aria-hidden", "true");
  view.append(tile, make("span", "name", item.text), make("span", "category", item.category ?? ""));
  view.addEventListener("click", () => tell("click", about(item)));
  cart.addEventListener("click", () => {
    cart.classList.add("done");
    cart.textContent = "In the cart";
    tell("cart", about(item));
  });
  made.append(view, cart);
  return made;
}

function showHints({ hints }) {
  const lines = hints.map(({ query, channel, reason }) => {
    const line = make("li", "");
    const isNew = before && !before.has(query);
    line.append(make("span", isNew ? "query new" : "query", query), make("span", `channel ${channel}`, channel));
    line.append(make("span", "reason", reason));
    return line;
  });
  before = new Set(hints.map((hint) => hint.query));
  at("hints").replaceChildren(...(lines.length ? lines : [make("li", "reason", "none")]));
}

async function showHistory() {
  const asked = user || `session:${session}`;
  const known = await read("history", { user: asked });
  if (!known || asked !== (user || `session:${session}`)) return;
  const lines = known.past.map(({ action, text, at: seconds }) => {
    const line = make("li", "");
    line.append(make("span", "action", action), make("span", "text", text), make("time", "", when(seconds)));
    return line;
  });
  at("history").replaceChildren(...(lines.length ? lines : [make("li", "", "Nothing yet.")]));
  const [latest] = known.u2q;
  at("nearline").textContent = latest
    ? `${latest.model} wrote ${latest.queries.length} queries, ${when(latest.at)}.`
    : "No list for this shopper yet. With `aigq nearline` running, one comes soon after a search.";
  const news = latest && latest.at > written;
  written = latest ? latest.at : written;
  return news;
}

function when(seconds) {
  const ago = Date.now() / 1000 - seconds;
  if (ago < 60) return "just now";
  if (ago < 3600) return `${Math.floor(ago / 60)} min ago`;
  return new Date(seconds * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

// --- who is shopping ---

function choice(shopper) {
  const label = make("label", "", shopper.user ? `${shopper.user.slice(0, 8)} ` : "Someone new");
  const radio = make("input", "");
  Object.assign(radio, { type: "radio", name: "shopper", value: shopper.user });
  radio.addEventListener("change", () => become(shopper));
  if (shopper.favourite) label.append(make("small", "", `· ${shopper.favourite}`));
  label.prepend(radio);
  return label;
}

async function become(shopper) {
  user = shopper.user;
  before = undefined;
  written = 0;
  at("who").textContent = user ? `shopper ${user.slice(0, 8)}` : "someone new";
  const answer = new Promise((done) => box.addEventListener("aigq-hints", (e) => done(e.detail), { once: true }));
  box.setAttribute("session", session);
  box.setAttribute("user", user); // the component asks again by itself
  const { hints } = await answer;
  await showHistory();
  if (shopper.favourite) await showItems(shopper.favourite, "From your favourite shelf");
  else await showItems(hints[0]?.query ?? "", "What others look for");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const query = form.q.value.trim();
  if (query) search(query);
});
box.addEventListener("aigq-hints", (event) => showHints(event.detail));
setInterval(async () => {
  if (!document.hidden && (await showHistory())) await box.refresh();
}, POLL_MS);

const shoppers = [...((await read("shoppers")) ?? []), { user: "", favourite: "" }];
at("shoppers").append(...shoppers.map(choice));
at("shoppers").querySelector("input").click();
