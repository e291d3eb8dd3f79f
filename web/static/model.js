// The page's model: what is known of the cameras, the conversation and the standing questions, and everything that changes it.
// Components read `state`, which is replaced and never changed in place, and call methods.
import { useEffect, useLayoutEffect, useReducer } from "./htm-preact.js";
import { duration, plural } from "./format.js";
import { api, Refused, Socket, token, Unauthorized } from "./socket.js";

const KEPT = 100; // turns kept in the page
const SAMPLES = 3600; // memory.stats kept a camera, one a second
const FIRED = 50; // fired events kept
const RESUME = 60000; // ms for which the server keeps a lost connection's session

const newID = (prefix) => prefix + Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
const asJSON = async (r) => (await r).json();
const pause = (ms) => new Promise((r) => setTimeout(r, ms));

export class Model {
  state = {
    phase: "starting", // starting, ready, unauthorized, unreachable
    retryAt: 0, // performance.now() of the next try, while unreachable
    cameras: [], // in the server's order; see #camera
    current: "",
    also: [], // other cameras that the next question is put to
    range: null, // { from, to } that the next question is about
    turns: [], // oldest first
    notice: "", // what happened while the connection was lost
    announcement: "", // said by screen readers
    watches: { known: false, reason: "", list: [], fired: [], events: [] },
  };
  asked = []; // questions, for the up key
  samples = new Map(); // camera -> [{ at (s), bytes, tokens, lag }]
  #sockets = new Map();
  #lost = new Map(); // camera -> what was known when its connection broke
  #listeners = new Set();
  #onPicture = new Map(); // camera -> function

  listen(fn) {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  set(patch) {
    this.state = { ...this.state, ...patch };
    for (const fn of this.#listeners) fn();
  }

  camera(name) { return this.state.cameras.find((c) => c.name === name); }
  get current() { return this.camera(this.state.current); }
  get linked() { return this.current?.link === "open"; }
  announce(text) { this.set({ announcement: text }); }

  // ---- cameras

  async start() {
    for (let wait = 500; ; wait = Math.min(15000, 2 * wait)) {
      try {
        await this.#list();
        break;
      } catch (e) {
        if (e instanceof Unauthorized) return this.set({ phase: "unauthorized" });
        this.set({ phase: "unreachable", retryAt: performance.now() + wait });
        await pause(wait);
      }
    }
    this.set({ phase: "ready" });
    const wanted = new URLSearchParams(location.search).get("stream");
    this.select((this.camera(wanted) || this.state.cameras[0])?.name);
    document.addEventListener("visibilitychange", () => this.#video());
    this.#poll();
    this.#pollWatches();
  }

  // #list takes the server's list of cameras. What a connection tells about its own camera is newer and stays.
  async #list() {
    const { streams } = await asJSON(api("/api/streams"));
    this.set({ cameras: streams.map((s) => {
      const old = this.camera(s.stream);
      return old?.link === "open" ? old : { link: "idle", ...old, ...told(s) };
    }) });
    for (const [name, socket] of this.#sockets) {
      if (this.camera(name)) continue; // it is served no more
      socket.end();
      this.#sockets.delete(name);
    }
    if (this.state.current && !this.current) this.set({ current: "" });
    if (!this.state.current && this.state.phase === "ready") this.select(streams[0]?.stream);
  }

  async #poll() {
    for (;;) {
      await pause(this.state.cameras.length > 1 ? 3000 : 15000);
      if (document.hidden) continue;
      await this.#list().catch(() => {}); // the connection's own state says that the server is gone
    }
  }

  #change(name, patch) {
    this.set({ cameras: this.state.cameras.map((c) => (c.name === name ? { ...c, ...patch } : c)) });
  }

  select(name) {
    if (!name || name === this.state.current) return;
    this.set({ current: name, also: [], range: null, notice: "" });
    const url = new URL(location.href);
    if (this.state.cameras.length > 1) url.searchParams.set("stream", name);
    history.replaceState(null, "", url);
    if (!this.#sockets.has(name)) this.#open(name);
    this.#video();
  }

  // step selects the camera `by` places on.
  step(by) {
    const names = this.state.cameras.map((c) => c.name);
    const at = names.indexOf(this.state.current);
    this.select(names[(at + by + names.length) % names.length]);
  }

  toggleAlso(name) {
    const { also } = this.state;
    this.set({ also: also.includes(name) ? also.filter((n) => n !== name) : [...also, name] });
  }

  retry() { this.#sockets.get(this.state.current)?.now(); }

  onPicture(name, fn) {
    this.#onPicture.set(name, fn);
    return () => this.#onPicture.get(name) === fn && this.#onPicture.delete(name);
  }

  // #video asks for live pictures of the camera that is shown, and of no other.
  #video() {
    for (const [name, socket] of this.#sockets) {
      socket.send({ type: "session.update", session: { video: name === this.state.current && !document.hidden } });
    }
  }

  #open(name) {
    const socket = new Socket(name);
    this.#sockets.set(name, socket);
    socket.addEventListener("link", (e) => this.#link(name, e.detail));
    socket.addEventListener("event", (e) => this.#event(name, e.detail));
    socket.addEventListener("picture", (e) => this.#onPicture.get(name)?.(e.detail));
    socket.connect();
  }

  #link(name, { link, wait }) {
    const camera = this.camera(name);
    if (link === "unauthorized") this.set({ phase: "unauthorized" });
    if (camera?.link === "open" && link !== "open") {
      const lost = { at: performance.now(), frames: camera.frames, state: camera.state };
      this.#lost.set(name, lost);
      // Answers go on at the server for a minute, and are taken up where they were if the connection is back by then.
      if (!this.#sockets.get(name).handle) this.#giveUp(name);
      for (const t of this.#turnsOf(name)) this.#turn(t.id, { broken: true });
      setTimeout(() => this.#lost.get(name) === lost && this.#giveUp(name), RESUME);
    }
    this.#change(name, { link, retryAt: performance.now() + wait });
  }

  #giveUp(name) {
    for (const t of this.#turnsOf(name)) this.#end(t, "failed", "The connection was lost before the answer was complete.");
  }

  #turnsOf(name) { return this.state.turns.filter((t) => !t.done && t.camera === name); }

  // ---- the conversation

  // ask puts a question to the current camera, and to the others that are chosen; false when it could not be sent.
  ask(text) {
    text = text.trim();
    const socket = this.#sockets.get(this.state.current);
    if (!text || !socket?.open) return false;
    const { current, also, range } = this.state;
    const turn = {
      id: newID("item_"), camera: current, cameras: [current, ...also], question: text, range, text: "", responseID: "",
      status: "waiting", done: false, evidence: [], response: null, outcome: "", announced: false,
    };
    this.set({ turns: [...this.state.turns, turn].slice(-KEPT), notice: "", range: null });
    socket.send({ type: "conversation.item.create", event_id: `new_${turn.id}`,
      item: { id: turn.id, type: "message", role: "user", content: [{ type: "input_text", text }] } });
    const response = {};
    if (also.length) response.streams = turn.cameras;
    if (range) response.range = range;
    socket.send({ type: "response.create", event_id: `ask_${turn.id}`, ...(Object.keys(response).length ? { response } : {}) });
    if (this.asked.at(-1) !== text) this.asked.push(text);
    return true;
  }

  askAgain(turn) {
    this.select(turn.camera);
    this.set({ also: turn.cameras.slice(1).filter((n) => this.camera(n)), range: turn.range });
    return this.ask(turn.question);
  }

  about(range) { this.set({ range }); }

  cancel(turn) {
    if (turn && !turn.done && turn.responseID) this.#sockets.get(turn.camera)?.send({ type: "response.cancel", response_id: turn.responseID });
  }

  // fresh begins a new conversation: the server forgets what was asked before on this camera.
  fresh() {
    const name = this.state.current;
    for (const t of this.#turnsOf(name)) this.cancel(t);
    this.#sockets.get(name)?.end();
    this.#lost.delete(name);
    this.set({ turns: this.state.turns.filter((t) => t.camera !== name), notice: "", range: null });
    this.#change(name, { link: "connecting" });
    this.#open(name);
  }

  #turn(id, patch) {
    this.set({ turns: this.state.turns.map((t) => (t.id === id ? { ...t, ...(typeof patch === "function" ? patch(t) : patch) } : t)) });
  }

  #end(turn, status, outcome) {
    this.#turn(turn.id, { done: true, status, outcome });
    this.announce(outcome);
  }

  #event(name, ev) {
    const turn = ev.response_id && this.state.turns.findLast((t) => t.responseID === ev.response_id);
    switch (ev.type) {
      case "session.created": {
        this.#giveUp(name); // a new session knows nothing of answers that were on their way
        this.#change(name, { suggestions: ev.session.suggestions || [] });
        this.#sockets.get(name).send({ type: "session.update", event_id: "resumption", session: { resumption: true } });
        this.#video();
        break;
      }
      case "session.resumption":
        this.#sockets.get(name).handle = ev.handle;
        if (!ev.resumed) break;
        for (const t of this.#turnsOf(name)) this.#turn(t.id, { broken: false });
        this.#video();
        break;
      case "stream.state": {
        const stream = ev.stream || name;
        const before = this.camera(stream);
        this.#change(stream, told({ ...ev, stream }));
        if (before && before.state !== ev.state && this.state.phase === "ready") this.announce(`Camera ${stream}: ${ev.state}`);
        break;
      }
      case "memory.stats": {
        const stream = ev.stream || name;
        const m = ev.memory;
        this.#change(stream, { memory: m, lagMS: ev.lag_ms, lastFrame: ev.last_frame, frames: ev.frames, dropped: ev.dropped, heard: performance.now() });
        const list = this.samples.get(stream) || [];
        list.push({ at: Date.now() / 1000, bytes: m.bytes, tokens: m.tokens, lag: ev.lag_ms });
        if (list.length > SAMPLES) list.splice(0, list.length - SAMPLES);
        this.samples.set(stream, list);
        if (this.#lost.has(name)) this.#back(name, ev.frames);
        break;
      }
      case "response.created": {
        const of = this.state.turns.find((t) => t.id === ev.response.input_item_id);
        if (of) this.#turn(of.id, { responseID: ev.response_id });
        break;
      }
      case "response.output_text.delta":
        if (turn) this.#turn(turn.id, (t) => ({ text: t.text + ev.delta, status: "streaming" }));
        break;
      case "response.evidence":
        if (turn) this.#turn(turn.id, (t) => ({ evidence: [...t.evidence, ev] }));
        break;
      case "response.done":
        if (turn) this.#done(turn, ev.response);
        break;
      case "watch.fired": case "watch.cleared": case "watch.error":
        this.#watchEvent(ev);
        break;
      case "session.going_away":
        this.set({ notice: `The server stops in ${duration(ev.time_left_ms || 0)}. This page connects again by itself.` });
        break;
      case "error": {
        const id = (ev.error.event_id || "").replace(/^(new|ask)_/, "");
        const of = this.state.turns.find((t) => t.id === id && !t.done);
        if (of) this.#end(of, "failed", advise(ev.error));
        break;
      }
    }
  }

  #done(turn, r) {
    const said = {
      cancelled: "Stopped.",
      incomplete: { time_limit: "Cut short: the time limit was reached.", deadline: "Cut short: the deadline was reached." }[r.status_details?.reason] ||
        "Cut short: the length limit was reached.",
      failed: `No answer. ${advise(r.status_details?.error || {})}`,
    }[r.status] || (turn.text ? "" : "The answer was empty.");
    this.#turn(turn.id, { done: true, status: r.status, response: r, outcome: said });
    this.announce(turn.text ? `Answer: ${turn.text} ${said}` : said);
  }

  // #back tells what was missed while the connection was lost; frames is how many the camera has shown by now.
  #back(name, frames) {
    const lost = this.#lost.get(name), { state } = this.camera(name);
    this.#lost.delete(name);
    const parts = [`Connected again after ${duration(performance.now() - lost.at)}.`];
    if (frames > lost.frames) parts.push(`The camera was watched meanwhile: ${plural(frames - lost.frames, "frame")} can be asked about.`);
    if (frames < lost.frames) parts.push("The server was started again.");
    if (state !== lost.state) parts.push(`It is ${state} now.`);
    this.set({ notice: parts.join(" ") });
    this.announce(parts.join(" "));
    this.#readWatches();
  }

  // ---- standing questions

  async #pollWatches() {
    for (;;) {
      await this.#readWatches();
      const { known, reason } = this.state.watches;
      await pause(known ? 5000 : reason ? 60000 : 10000);
      while (document.hidden) await pause(1000);
    }
  }

  async #readWatches() {
    try {
      const { watches } = await asJSON(api("/api/watches"));
      for (const w of watches) { // of a camera that has no connection here nothing else would tell
        const before = this.state.watches.list.find((o) => o.id === w.id);
        if (before && w.firings > before.firings && !this.#sockets.get(w.stream)?.open) this.announce(`${w.ask}: fired`);
      }
      this.#watches({ known: true, reason: "", list: watches });
    } catch (e) {
      if (e instanceof Refused) {
        this.#watches({ known: false, reason: e.status === 403 ? "Your token may not see standing questions." : "This server does not offer standing questions." });
      }
    }
  }

  #watches(patch) { this.set({ watches: { ...this.state.watches, ...patch } }); }

  // #watchEvent takes { watch, event }. The list is read again for what has changed with it.
  #watchEvent(ev) {
    const w = this.state.watches, { event, watch } = ev;
    if (w.events.some((e) => e.id && e.id === event.id)) return;
    this.#watches({ events: [{ ...event, watch: watch.id }, ...w.events].slice(0, FIRED) });
    this.announce({ fired: `${watch.ask}: fired`, cleared: `${watch.ask}: cleared`, error: `${watch.ask}: ${event.error}` }[event.kind] || "");
    this.#readWatches();
  }

  // eventsOf gives what a standing question fired lately, newest first.
  async eventsOf(id) {
    const { events = [] } = await asJSON(api(`/api/watches/${encodeURIComponent(id)}`));
    return events.reverse();
  }

  async createWatch(spec) {
    const w = await asJSON(api("/api/watches", { method: "POST", body: spec }));
    await this.#readWatches();
    return w;
  }

  // backtest tries a question on the memory; progress is told { done, total } now and then.
  async backtest(spec, signal, progress) {
    const r = await api("/api/watches/backtest", { method: "POST", body: spec, signal, accept: "application/x-ndjson" });
    let rest = "";
    for (const reader = r.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
      const { value = "", done } = await reader.read();
      const lines = (rest + value).split("\n");
      rest = done ? "" : lines.pop();
      for (const line of lines.filter((l) => l.trim())) {
        const m = JSON.parse(line);
        if (m.type === "progress") progress(m);
        else if (m.type === "error") throw new Refused(r.status, m.error.message);
        else return m;
      }
      if (done) throw new Error("the connection ended before the result came");
    }
  }

  async changeWatch(id, patch) {
    await api(`/api/watches/${encodeURIComponent(id)}`, { method: "PATCH", body: patch });
    await this.#readWatches();
  }

  async deleteWatch(id) {
    await api(`/api/watches/${encodeURIComponent(id)}`, { method: "DELETE" });
    await this.#readWatches();
  }
}

// told turns what the server says of a stream into what the page keeps.
function told(s) {
  return {
    name: s.stream, source: s.source || "", state: s.state, since: s.since, error: s.error || "", lastFrame: s.last_frame, lagMS: s.lag_ms,
    frames: s.frames, dropped: s.dropped, reconnects: s.reconnects, heard: performance.now(), ...(s.memory ? { memory: s.memory } : {}),
  };
}

// advise makes a sentence of an error that says what can be done about it.
function advise(e) {
  const message = e.message ? e.message[0].toUpperCase() + e.message.slice(1).replace(/([^.!?])$/, "$1.") : "Something went wrong.";
  const wait = e.retry_after_ms ? ` Try again in ${duration(e.retry_after_ms)}.` : "";
  if (wait) return message + wait;
  if (e.code === "busy" || e.code === "server_busy" || e.code === "rate_limited") return `${message} Ask again in a moment.`;
  if (e.code === "too_many_responses") return `${message} Stop one of them or wait for it.`;
  if (e.code === "unknown_parameter") return `${message} This server cannot do that; ask without it.`;
  return message;
}

// useModel renders a component again when the model changes.
export function useModel(model) {
  const [, again] = useReducer((n) => n + 1, 0);
  const drawn = model.state;
  useLayoutEffect(() => {
    const off = model.listen(() => again());
    if (model.state !== drawn) again(); // it changed before this listened
    return off;
  }, [model]);
  return drawn;
}

// useTick renders a component again every `ms`, for texts that count time.
export function useTick(ms) {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    const t = setInterval(() => again(), ms);
    return () => clearInterval(t);
  }, [ms]);
}

// addressOf gives an address at which an element finds a picture or clip, which may need the token.
const kept = new Map(); // path -> promise of a blob's address, least recently used first
const KEPT_PICTURES = 300;
export async function addressOf(path) {
  if (!token.get()) return path; // an <img> cannot carry a token; without one it needs no help
  let p = kept.get(path);
  kept.delete(path);
  p ||= api(path).then((r) => r.blob()).then((b) => URL.createObjectURL(b));
  kept.set(path, p);
  if (kept.size > KEPT_PICTURES) {
    const [oldest, gone] = kept.entries().next().value;
    kept.delete(oldest);
    gone.then((url) => URL.revokeObjectURL(url), () => {});
  }
  return p;
}
