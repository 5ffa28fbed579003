// <aigq-search-hints>: hints of the aigq service in a shop's search box. No dependency. See docs/serving.md.
//
// The list is in the page's own tree, not in a shadow root: aria-controls and aria-activedescendant do not
// reach through one. Styles are a constructed style sheet, which a strict Content-Security-Policy allows.

const CSS = `
aigq-search-hints { display: block; position: relative }
.aigq-list { position: absolute; z-index: 1000; inset: calc(100% + 6px) 0 auto; margin: 0; padding: 6px;
  max-height: min(70vh, 480px); overflow: auto; list-style: none; text-align: start; color: #1c2024;
  background: #fff; border: 1px solid #d9dde3; border-radius: 12px; box-shadow: 0 12px 32px #0003 }
.aigq-list[hidden] { display: none }
.aigq-hint { display: flex; align-items: center; gap: 8px; margin: 0; padding-block: 6px;
  padding-inline: 12px 4px; border-radius: 8px; cursor: pointer }
.aigq-hint:hover { background: #f3f5f8 }
.aigq-hint[aria-selected=true] { background: #e3eaf3; outline: 2px solid; outline-offset: -2px }
.aigq-text { flex: 1; min-width: 0 }
.aigq-query, .aigq-reason { display: block; overflow-wrap: anywhere }
.aigq-reason { color: #5c6570; font-size: .8em }
.aigq-dismiss { border: 0; border-radius: 6px; padding: 0; background: none; color: #5c6570; font: inherit;
  min-width: 28px; min-height: 28px; cursor: pointer }
.aigq-dismiss:hover { background: #dde3ea; color: #1c2024 }`;

const TIMEOUT_MS = 2000; // for one call; a page never waits for hints
const ROTATE_MS = 4000;
const ROTATED = 3; // hints that take turns as the placeholder
const BATCH_MS = 500; // impressions are gathered for so long

let lists = 0; // each list has an id of its own
let sheet;

function addStyles(root) {
  if (!sheet) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
  }
  if (!root.adoptedStyleSheets.includes(sheet)) {
    root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
  }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never innerHTML: the text comes from shoppers
  return made;
}

class AigqSearchHints extends HTMLElement {
  static observedAttributes = ["endpoint", "user", "session", "surface", "n", "api-key"];

  #input; // the shop's own, or ours
  #list;
  #placeholder = ""; // the shop's own
  #hints = [];
  #requestId = "";
  #who = {}; // user_id and session_id that the hints are for
  #asked = 0; // counts refreshes: an answer that another one overtook is dropped
  #stale = false; // an attribute has changed
  #active = -1;
  #turn = 0;
  #seen = new Set(); // hints of this answer whose impression is noted
  #waiting = []; // impressions to post
  #ends; // AbortController of all listeners
  #observer;
  #rotation;
  #batch;

  connectedCallback() {
    // a framework may add the input right after the element
    queueMicrotask(() => this.isConnected && !this.#ends && this.#start());
  }

  disconnectedCallback() {
    if (!this.#ends) return;
    this.#flush();
    this.#ends.abort();
    this.#ends = undefined;
    clearInterval(this.#rotation);
    this.#observer.disconnect();
    this.#list.remove();
    this.#input.placeholder = this.#placeholder;
  }

  attributeChangedCallback(_name, before, after) {
    if (!this.#ends || before === after || this.#stale) return;
    this.#stale = true;
    queueMicrotask(() => this.#ends && this.refresh()); // several attributes, one call
  }

  /** Ask the service again, for example after a search within the page. Never rejects. */
  async refresh() {
    const turn = ++this.#asked;
    this.#stale = false;
    const who = this.#shopper();
    const answer = await this.#ask(who);
    if (turn !== this.#asked || !this.#ends) return;
    this.#flush();
    const awaited = !this.#requestId && document.activeElement === this.#input;
    this.#who = who;
    this.#requestId = answer.request_id;
    this.#hints = [...answer.hints];
    this.#seen.clear();
    this.#render();
    if (awaited) this.#open();
    this.dispatchEvent(new CustomEvent("aigq-hints", { bubbles: true, detail: answer }));
  }

  #start() {
    this.#input = this.querySelector("input:is([type=search], [type=text], :not([type]))");
    if (!this.#input) {
      this.#input = element("input", "aigq-input");
      this.#input.type = "search";
      this.#input.setAttribute("aria-label", "Search");
      this.prepend(this.#input);
    }
    this.#placeholder = this.#input.placeholder;
    this.#list = element("ul", "aigq-list");
    this.#list.id = `aigq-list-${++lists}`;
    this.#list.hidden = true;
    this.#list.setAttribute("role", "listbox");
    this.#list.setAttribute("aria-label", this.getAttribute("label") || "Suggested searches");
    this.append(this.#list);
    addStyles(this.getRootNode());
    const role = { role: "combobox", "aria-autocomplete": "none", "aria-expanded": "false" };
    for (const [name, value] of Object.entries({ ...role, "aria-controls": this.#list.id, autocomplete: "off" })) {
      this.#input.setAttribute(name, value);
    }
    this.#observer = new IntersectionObserver((entries) => this.#onVisible(entries), { threshold: 0.5 });
    this.#listen();
    this.#rotation = setInterval(() => this.#rotate(), ROTATE_MS);
    this.refresh();
  }

  #listen() {
    this.#ends = new AbortController();
    const on = (target, type, handler) => target.addEventListener(type, handler, { signal: this.#ends.signal });
    on(this.#input, "focus", () => this.#open());
    on(this.#input, "click", () => this.#open());
    on(this.#input, "input", () => (this.#input.value ? this.#close() : this.#open()));
    on(this.#input, "blur", () => this.#close());
    on(this.#input, "keydown", (event) => this.#onKey(event));
    on(this.#list, "mousedown", (event) => event.preventDefault()); // the input keeps the focus
    on(this.#list, "click", (event) => this.#onClick(event));
    on(window, "pagehide", () => this.#flush());
  }

  // --- the service ---

  #shopper() {
    const [user, session] = [this.getAttribute("user"), this.getAttribute("session")];
    return { ...(user && { user_id: user }), ...(session && { session_id: session }) };
  }

  async #ask({ user_id: user, session_id: session }) {
    const [surface, locale] = [this.getAttribute("surface"), this.lang || document.documentElement.lang];
    const asked = Object.entries({ n: this.getAttribute("n") || "8", user, session, surface, locale });
    try {
      const query = new URLSearchParams(asked.filter(([, value]) => value));
      const response = await this.#call(`/v1/hints?${query}`, {});
      const { request_id, hints } = await response.json();
      if (response.ok && hints.every((hint) => typeof hint.query === "string")) return { request_id, hints };
    } catch {
      // the service is down, or this is no answer of aigq: a search box without hints
    }
    return { request_id: "", hints: [] };
  }

  async #call(path, options) {
    const headers = { ...options.headers };
    if (this.getAttribute("api-key")) headers["x-api-key"] = this.getAttribute("api-key");
    const endpoint = (this.getAttribute("endpoint") || "").replace(/\/+$/, "");
    return fetch(endpoint + path, { ...options, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  }

  #event(action, hint) {
    const surface = this.getAttribute("surface");
    return {
      ...this.#who,
      action_name: action,
      event_id: [action, this.#requestId, hint.position].join(":"), // a repeat is the same event
      query_id: this.#requestId,
      user_query: hint.query,
      event_attributes: { position: { ordinal: hint.position }, ...(surface && { surface }) },
    };
  }

  #post(events) {
    if (!events.length || !Object.keys(this.#who).length) return; // nobody to remember them for
    const body = JSON.stringify(events);
    const headers = { "content-type": "application/json" };
    // keepalive: the page may be left now. A service that is down loses these events, the shop goes on.
    this.#call("/v1/events", { method: "POST", body, headers, keepalive: true }).catch(() => {});
  }

  // --- impressions: what was really on the screen, once per answer ---

  #onVisible(entries) {
    for (const { isIntersecting, target } of entries) {
      const hint = this.#hints[this.#options().indexOf(target)];
      if (!isIntersecting || !hint || this.#seen.has(hint.query)) continue;
      this.#seen.add(hint.query);
      this.#waiting.push(this.#event("hint_impression", hint));
      this.#batch ??= setTimeout(() => this.#flush(), BATCH_MS);
    }
  }

  #flush() {
    clearTimeout(this.#batch);
    this.#batch = undefined;
    this.#post(this.#waiting.splice(0));
  }

  // --- what the shopper sees ---

  #options() {
    return [...this.#list.children];
  }

  #render() {
    this.#observer.disconnect();
    this.#list.replaceChildren(...this.#hints.map((hint, place) => this.#option(hint, place)));
    for (const option of this.#options()) this.#observer.observe(option);
    this.#activate(-1);
    this.#turn = 0;
    this.#showPlaceholder();
    if (!this.#hints.length) this.#close();
  }

  #option(hint, place) {
    const option = element("li", "aigq-hint");
    const dismiss = element("button", "aigq-dismiss", "×");
    const text = element("span", "aigq-text");
    const label = this.getAttribute("dismiss-label") || "Not interested";
    option.id = `${this.#list.id}-${place}`;
    option.dataset.channel = hint.channel;
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.setAttribute("aria-label", [hint.query, hint.reason].filter(Boolean).join(", "));
    option.setAttribute("aria-keyshortcuts", "Delete");
    dismiss.type = "button";
    dismiss.tabIndex = -1; // by keyboard: Delete
    dismiss.title = label;
    dismiss.setAttribute("aria-label", `${label}: ${hint.query}`);
    text.append(element("span", "aigq-query", hint.query));
    if (hint.reason) text.append(element("span", "aigq-reason", hint.reason));
    option.append(text, dismiss);
    return option;
  }

  #open() {
    if (this.#input.value || !this.#hints.length || !this.#list.hidden) return;
    this.#list.hidden = false;
    this.#input.setAttribute("aria-expanded", "true");
    this.#showPlaceholder();
  }

  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
  }

  #activate(place) {
    this.#active = place;
    this.#options().forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    const option = this.#options()[place];
    if (option) {
      this.#input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else this.#input.removeAttribute("aria-activedescendant");
  }

  #rotate() {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still || document.hidden || document.activeElement === this.#input) return;
    this.#turn = (this.#turn + 1) % Math.min(ROTATED, this.#hints.length || 1);
    this.#showPlaceholder();
  }

  #showPlaceholder() {
    this.#input.placeholder = this.#hints[this.#turn]?.query ?? this.#placeholder;
  }

  // --- what the shopper does ---

  #onKey(event) {
    const closed = this.#list.hidden;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && !event.altKey && this.#hints.length && !this.#input.value) {
      event.preventDefault();
      this.#open();
      const places = this.#hints.length + 1; // the box itself is one of them
      this.#activate(((this.#active + 1 + step + places) % places) - 1);
    } else if (closed || event.isComposing) {
      return;
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.#close();
    } else if (event.key === "Enter" && this.#active >= 0) {
      event.preventDefault();
      this.#choose(this.#active);
    } else if (event.key === "Delete" && this.#active >= 0) {
      event.preventDefault();
      this.#dismiss(this.#active);
    }
  }

  #onClick(event) {
    const place = this.#options().indexOf(event.target.closest(".aigq-hint"));
    if (place < 0) return;
    if (event.target.closest(".aigq-dismiss")) this.#dismiss(place);
    else this.#choose(place);
  }

  #choose(place) {
    const hint = this.#hints[place];
    this.#flush();
    this.#post([this.#event("hint_click", hint)]);
    this.#input.value = hint.query;
    this.#close();
    const detail = { ...hint, request_id: this.#requestId };
    const search = new CustomEvent("aigq-search", { bubbles: true, cancelable: true, detail });
    if (this.dispatchEvent(search)) this.#input.form?.requestSubmit();
  }

  #dismiss(place) {
    const [hint] = this.#hints.splice(place, 1);
    this.#flush();
    this.#post([this.#event("hint_dismiss", hint)]);
    const active = Math.min(this.#active, this.#hints.length - 1);
    this.#render();
    if (!this.#list.hidden) this.#activate(active);
  }
}

if (!customElements.get("aigq-search-hints")) customElements.define("aigq-search-hints", AigqSearchHints);
