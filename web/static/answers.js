// The conversation: one Turn is a question with its answer, its evidence and its numbers.
import { clock, count, duration, el, moment, span } from "./format.js";
import { api, token } from "./socket.js";
import { show } from "./viewer.js";

const FEW = 12; // moments shown before "show all"

export class Turn {
  #answer = el("p", { class: "answer" });
  #status = el("p", { class: "status" }, el("span", { class: "dots", "aria-hidden": "true" }), "Looking at the memory");
  #stop;
  #more = el("div", { class: "more" });
  #began = performance.now();
  responseID = "";
  done = false;

  constructor(itemID, question, actions) {
    this.itemID = itemID;
    this.question = question;
    this.actions = actions;
    this.#stop = el("button", { type: "button", class: "stop", onclick: () => actions.cancel(this) }, "Stop");
    this.node = el("li", { class: "turn", "data-status": "waiting" },
      el("p", { class: "question" }, question),
      el("article", { class: "card", "aria-label": "Answer", "aria-busy": "true" },
        this.#answer, this.#status, this.#stop, this.#more));
    this.card = this.node.lastElementChild;
  }

  created(id) {
    this.responseID = id;
    this.card.dataset.responseId = id;
  }

  delta(text) {
    this.node.dataset.status = "streaming";
    this.#status.hidden = true;
    this.#answer.append(text);
  }

  // evidence shows what the answer was given: being in the prompt is not the same as having caused the answer.
  evidence(ev) {
    const strip = el("ul", { class: "strip", "aria-label": "Moments the answer was given" });
    const items = [...ev.items].sort((a, b) => Date.parse(a.at || a.from) - Date.parse(b.at || b.from));
    const pictures = items.filter((i) => i.thumb);
    const rank = (i) => (i.role === "newest" ? 2 : i.role === "detail" ? 1 : 0);
    const chosen = new Set([...pictures].sort((a, b) => rank(b) - rank(a) || b.weight - a.weight).slice(0, FEW));
    const entries = pictures.map((i) => ({ item: i, caption: caption(i, ev.as_of), url: null }));
    for (const [n, e] of entries.entries()) {
      const img = el("img", { alt: "", width: 120, height: 68, decoding: "async" });
      const button = el("button", { type: "button", class: "thumb", "aria-label": `Enlarge ${e.caption.long}`,
        onclick: () => show(entries, n) }, img, el("span", { class: "role", "data-role": e.item.role, hidden: e.item.role === "detail" }, e.caption.role), el("time", { dateTime: e.item.at || e.item.from }, e.caption.short));
      const li = el("li", {}, button);
      if (chosen.has(e.item)) load(e, img);
      else { li.hidden = true; li.load = () => load(e, img); }
      strip.append(li);
    }
    const parts = [];
    if (pictures.length) parts.push(strip);
    if (pictures.length > FEW) {
      parts.push(el("button", { type: "button", class: "all", onclick: (e) => {
        e.currentTarget.remove();
        for (const li of strip.children) { li.hidden = false; li.load?.(); }
      } }, `Show all ${pictures.length} moments`));
    }
    if (ev.as_of) parts.push(timeline(ev, items));
    parts.push(el("p", { class: "fresh" }, freshness(ev)));
    this.#more.prepend(...parts);
  }

  finish(r) {
    this.done = true;
    this.card.setAttribute("aria-busy", "false");
    this.node.dataset.status = r.status;
    this.#stop.remove();
    this.#status.hidden = true;
    const chips = [];
    if (r.from_coverage) chips.push(["Known from the watch log, no model asked", "coverage"]);
    if (r.timings?.first_token_ms > 0) chips.push([`first word ${Math.round(r.timings.first_token_ms)} ms`, "first"]);
    if (r.timings?.tokens_per_s > 0) chips.push([`${Math.round(r.timings.tokens_per_s)} tokens/s`, "rate"]);
    if (r.usage?.output_tokens > 0) chips.push([`${count(r.usage.output_tokens)} token${r.usage.output_tokens > 1 ? "s" : ""}`, "tokens"]);
    if (r.usage?.input_token_details?.visual_tokens > 0) chips.push([`${count(r.usage.input_token_details.visual_tokens)} visual tokens read`, "visual"]);
    if (chips.length) {
      this.#more.append(el("ul", { class: "chips", "aria-label": "Timings" }, ...chips.map(([t, k]) => el("li", { "data-chip": k }, t))));
    }
    const said = {
      cancelled: "Stopped.",
      incomplete: r.status_details?.reason === "time_limit" ? "Cut short: the time limit was reached." : "Cut short: the length limit was reached.",
      failed: `No answer: ${r.status_details?.error?.message || "something went wrong"}`,
    }[r.status];
    if (said) this.#end(said, r.status !== "incomplete");
    if (r.status === "completed" && !this.#answer.textContent) this.#end("The answer was empty.", true);
  }

  // lose ends a turn whose connection broke.
  lose(why) {
    if (this.done) return;
    this.done = true;
    this.card.setAttribute("aria-busy", "false");
    this.node.dataset.status = "failed";
    this.#stop.remove();
    this.#status.hidden = true;
    this.#end(why, true);
  }

  #end(text, again) {
    const p = el("p", { class: "outcome" }, text);
    if (again) p.append(" ", el("button", { type: "button", class: "again", onclick: () => this.actions.ask(this.question) }, "Ask again"));
    this.#answer.after(p);
  }

  // long says whether the answer alone fills most of a view of that height.
  long(height) { return this.#answer.offsetHeight > 0.6 * height; }

  get text() { return this.#answer.textContent; }
}

async function load(e, img) {
  try {
    // An <img> cannot carry a token, so with one the picture is fetched and shown as a blob.
    e.url = token.get() ? URL.createObjectURL(await (await api(e.item.thumb)).blob()) : e.item.thumb;
    img.src = e.url;
  } catch { img.closest("li")?.classList.add("lost"); }
}

function caption(i, asOf) {
  const role = { newest: "newest", detail: "moment", synopsis: "span" }[i.role] || i.role;
  const short = i.role === "synopsis" ? moment(i.from, asOf) : moment(i.at || i.from, asOf);
  const long = i.role === "synopsis" ? `span ${span(i.from, i.to, asOf)}, picture of ${moment(i.at, asOf)}` : `${role === "newest" ? "newest frame" : "moment"} ${short}` +
    (i.from !== i.to ? `, standing for ${span(i.from, i.to, asOf)}` : "");
  return { role, short, long };
}

// timeline draws when was watched, where the gaps are, and when the given moments lie.
function timeline(ev, items) {
  const times = [...ev.coverage.flatMap((s) => [s.from, s.to]), ...items.flatMap((i) => [i.from, i.to]), ev.as_of].filter(Boolean).map((t) => Date.parse(t));
  const from = Math.min(...times), to = Math.max(...times);
  const at = (t) => (to > from ? (100 * (Date.parse(t) - from)) / (to - from) : 0);
  const bar = el("div", { class: "bar", role: "img", "aria-label": freshness(ev) });
  const put = (cls, a, b) => {
    const e = el("span", { class: cls });
    e.style.left = `${at(a)}%`;
    if (b) e.style.width = `${Math.max(0.4, at(b) - at(a))}%`;
    bar.append(e);
  };
  for (const s of ev.coverage) put("seen", s.from, s.to);
  for (const s of ev.gaps) put("gap", s.from, s.to);
  for (const i of items) if (i.role !== "synopsis") put(`tick ${i.role}`, i.at || i.from);
  const first = ev.coverage[0]?.from || items[0]?.from;
  return el("div", { class: "timeline" }, bar, el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, moment(first, ev.as_of)), el("span", {}, clock(ev.as_of))));
}

function freshness(ev) {
  if (!ev.as_of) return "Nothing was seen yet";
  const parts = [`As of ${clock(ev.as_of)}`, ev.lag_ms < 1000 ? `${ev.lag_ms} ms behind` : `${duration(ev.lag_ms)} behind`];
  if (ev.focus) parts.push(`asked about ${span(ev.focus.from, ev.focus.to, ev.as_of)}`);
  if (ev.prefer) parts.push(`the ${ev.prefer} of what fits`);
  if (ev.note) parts.push(ev.note);
  if (ev.stream_state && ev.stream_state !== "live") parts.push(`camera ${ev.stream_state}`);
  const c = ev.coverage;
  if (!c.length) parts.push("nothing watched yet");
  else {
    const gaps = ev.gaps.length;
    parts.push(`watched ${span(c[0].from, c[c.length - 1].to, ev.as_of)}, ${gaps ? `${gaps} gap${gaps > 1 ? "s" : ""}: ${gapText(ev)}` : "no gaps"}`);
  }
  return parts.join(" · ");
}

function gapText(ev) {
  const few = ev.gaps.slice(-2).map((g) => span(g.from, g.to, ev.as_of));
  return (ev.gaps.length > 2 ? "… " : "") + few.join(", ");
}
