// Requests with the token, and one connection to /v1/realtime that comes back by itself: 0.5 s doubling to 15 s, with jitter.

const TOKEN = "afterimage.token";

export class Unauthorized extends Error {}

// Refused is an answer of the server that is not a success; message is its own sentence where it gave one.
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) || "",
  set: (v) => sessionStorage.setItem(TOKEN, v),
};

// A token may come in the address's fragment, which browsers never send to a server. It is taken out of the address at once.
export function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  token.set(given);
  history.replaceState(null, "", location.pathname + location.search);
}

// api asks the server; body, where given, is sent as JSON. It throws Unauthorized, Refused, or what fetch throws.
export async function api(path, { method = "GET", body, signal, accept } = {}) {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  if (accept) headers.Accept = accept;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const r = await fetch(path, { method, headers, credentials: "omit", signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (r.status === 401) throw new Unauthorized("This server needs a token.");
  if (r.ok) return r;
  const said = await r.json().then((j) => j.error?.message, () => "");
  const wait = r.headers.get("Retry-After");
  throw new Refused(r.status, (said || `The server answered ${r.status}.`) + (wait ? ` Try again in ${wait} s.` : ""));
}

const base64url = (s) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(s))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

export class Socket extends EventTarget {
  #ws = null;
  #tries = 0;
  #timer = 0;
  #silence = 0;
  #ended = false;
  #seq = 0; // of the newest event
  handle = ""; // with which this session can be taken up after a loss; good once

  constructor(stream) {
    super();
    this.stream = stream;
    addEventListener("online", this.now);
    addEventListener("pageshow", this.now);
  }

  get open() { return this.#ws?.readyState === WebSocket.OPEN; }

  async connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#say("connecting");
    try {
      // A refused WebSocket does not tell its status, so ask over HTTP whether the token is good first.
      await api("/api/version");
    } catch (e) {
      if (e instanceof Unauthorized) return this.#say("unauthorized");
      return this.#later();
    }
    if (this.#ended) return;
    const url = new URL("/v1/realtime", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("stream", this.stream);
    if (this.handle) {
      url.searchParams.set("resume", this.handle);
      url.searchParams.set("after", this.#seq);
    }
    const protocols = ["afterimage.v1"];
    if (token.get()) protocols.push("afterimage.bearer." + base64url(token.get()));
    const ws = this.#ws = new WebSocket(url, protocols);
    ws.binaryType = "arraybuffer";
    ws.onopen = () => { this.#tries = 0; this.handle = ""; this.#heard(); this.#say("open"); };
    ws.onmessage = (m) => {
      this.#heard();
      if (typeof m.data !== "string") return this.dispatchEvent(new CustomEvent("picture", { detail: m.data }));
      const ev = JSON.parse(m.data);
      if (ev.seq) this.#seq = ev.seq;
      this.dispatchEvent(new CustomEvent("event", { detail: ev }));
    };
    ws.onclose = () => { if (this.#ws === ws) this.#later(); };
  }

  // now tries at once instead of waiting for the next attempt.
  now = () => {
    if (this.#ws || !this.#timer) return;
    this.connect();
  };

  // end closes for good.
  end() {
    this.#ended = true;
    removeEventListener("online", this.now);
    removeEventListener("pageshow", this.now);
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    if (this.#ws) {
      this.#ws.onmessage = this.#ws.onclose = null;
      this.#ws.close();
      this.#ws = null;
    }
  }

  send(ev) {
    if (!this.open) return false;
    this.#ws.send(JSON.stringify(ev));
    return true;
  }

  // The server speaks every second; a network that vanished without a word is noticed by its silence.
  #heard() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#drop(), 15000);
  }

  #drop() {
    const ws = this.#ws;
    if (!ws) return;
    ws.onmessage = ws.onclose = null;
    ws.close();
    this.#later();
  }

  #later() {
    clearTimeout(this.#silence);
    this.#ws = null;
    if (this.#ended) return;
    const wait = Math.min(15000, 500 * 2 ** this.#tries++) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.connect(), wait);
    this.#say("waiting", wait);
  }

  #say(link, wait = 0) {
    this.dispatchEvent(new CustomEvent("link", { detail: { link, wait } }));
  }
}
