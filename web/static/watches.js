// Standing questions: those that are watched, what they fired, and a form that tries a new one on the memory before it is enabled.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { Thumb } from "./camera.js";
import { clock, count, duration, moment, percent, plural, seconds, span } from "./format.js";
import { Meter } from "./icon.js";
import { useModel } from "./model.js";

const states = {
  idle: ["watching", "not seen now"], above: ["holding", "seen; must last before it fires"], fired: ["fired", "seen now"],
  cooling: ["cooling", "fired lately; quiet until the cooldown is over"], paused: ["paused", "not checked until it is resumed"],
};

// nameFor makes a name of a question: letters, digits and dashes, as the server wants it, and none that is taken.
function nameFor(ask, taken) {
  const name = ask.toLowerCase()
    .replace(/^(is|are|does|do|has|have) (there )?(an?|the|any)? ?/, "")
    .replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40).replace(/-+$/, "") || "question";
  for (let n = 1; ; n++) {
    const tried = n === 1 ? name : `${name}-${n}`;
    if (!taken.includes(tried)) return tried;
  }
}

export function Watches({ model, show }) {
  const { watches } = useModel(model);
  const [making, setMaking] = useState(false);
  const opener = useRef();
  const done = () => { setMaking(false); setTimeout(() => opener.current?.focus()); };
  return html`<div class="page" id="watches">
    <div class="title"><h2 tabindex="-1">Standing questions</h2>
      ${watches.known && !making && html`<button type="button" ref=${opener} class="primary" id="watch-new"
        onClick=${() => setMaking(true)}>New</button>`}</div>
    <p class="lead">A question that is asked again and again, and tells you when its answer changes. Try it on what the camera remembers before you rely on it.</p>
    ${watches.reason && html`<p class="trouble" id="watches-problem">${watches.reason}</p>`}
    ${making && html`<${NewWatch} model=${model} show=${show} done=${done} />`}
    ${watches.known && !making && watches.list.length === 0 && html`<p
      class="hint" id="watches-none">None yet. For example: “Is a parcel on the step?”, once it is seen for 5 seconds.</p>`}
    <ul class="watch-list">
      ${watches.list.map((w) => html`<${Watch} key=${w.id} w=${w} model=${model} show=${show} events=${watches.events.filter((e) => e.watch === w.id)} />`)}</ul>
  </div>`;
}

function Watch({ w, model, show, events }) {
  const [sure, setSure] = useState(false);
  const [problem, setProblem] = useState("");
  const [held, setHeld] = useState([]); // what it fired before this page was opened
  useEffect(() => {
    if (w.firings > 0) model.eventsOf(w.id).then(setHeld, () => {}); // without them the card still says how often
  }, [w.id, w.firings]);
  const state = w.paused ? "paused" : w.state;
  const [word, meaning] = states[state] || [state, ""];
  const all = [...events, ...held.filter((h) => !events.some((e) => e.id === h.id))];
  const fires = all.filter((e) => e.kind === "fired").slice(0, 12);
  const remove = async () => {
    if (!sure) return setSure(true);
    try { await model.deleteWatch(w.id); } catch (e) { setProblem(`It could not be deleted: ${e.message}`); setSure(false); }
  };
  const cost = w.cost?.check_ms;
  const yes = !w.choices || w.choices.join() === "yes,no" ? "" : `“${(w.fire || w.choices.slice(0, 1)).join("” or “")}” `;
  const facts = [
    w.stream, `fires from ${yes}${percent(w.threshold)}`, seconds(w.hold) > 0 && `held for ${brief(w.hold)}`, seconds(w.cooldown) > 0 && `at most once in ${brief(w.cooldown)}`,
    w.checked && `checked ${clock(w.checked)}`, cost > 0 && `${cost < 10 ? cost.toFixed(1) : Math.round(cost)} ms a check`,
    w.firings > 0 && `fired ${w.firings === 1 ? "once" : `${count(w.firings)} times`}`, w.webhook && `calls ${w.webhook}`,
  ].filter(Boolean);
  const pause = async () => {
    try { await model.changeWatch(w.id, { paused: !w.paused }); setProblem(""); } catch (e) { setProblem(`It could not be changed: ${e.message}`); }
  };
  return html`<li class="watch-card" data-state=${state}>
    <div class="title"><h3>${w.ask}</h3><span class="badge flat" data-state=${state} title=${meaning}>${word}</span></div>
    <p class="name">${w.name}</p>
    ${w.probability != null && html`<p class="probability"><${Meter} value=${w.probability} label="Probability now" />
      <span>${percent(w.probability)} now</span></p>`}
    <p class="facts">${facts.join(" · ")}</p>
    ${w.error && html`<p class="trouble">${w.error}</p>`}
    ${fires.length > 0 && html`<h4>Fired</h4><${Moments} list=${fires} show=${show} what=${w.ask} />`}
    ${w.fixed ? html`<p class="facts">It is in the configuration file and is changed there.</p>` : html`<p class="actions">
      <button type="button" class="small" onClick=${pause}>${w.paused ? "Resume" : "Pause"}</button>
      <button type="button" class="small danger" data-sure=${sure} onClick=${remove}>${sure ? "Delete it" : "Delete"}</button>
      ${sure && html`<button type="button" class="small" onClick=${() => setSure(false)}>Keep it</button>`}
      ${problem && html`<span role="alert">${problem}</span>`}</p>`}
  </li>`;
}

const brief = (d) => duration(1000 * seconds(d)).replace(/\.0 s$/, " s").replace(/ (0 s|0 min)$/, "");

// Moments are pictures of when something fired, or would have.
function Moments({ list, show, what }) {
  const entries = list.filter((e) => e.thumb).map((e) => ({ item: e, caption: { long: `${what} ${moment(e.at)}, probability ${percent(e.probability)}` } }));
  let n = -1;
  return html`<ul class="strip">${list.map((e) => {
    const k = e.thumb ? ++n : -1;
    const label = html`<time datetime=${e.at} aria-hidden=${k >= 0 ? "true" : undefined}>${clock(e.at)}</time>
      <span class="share" aria-hidden=${k >= 0 ? "true" : undefined}>${percent(e.probability)}</span>`;
    return html`<li>${e.thumb ? html`<button type="button" class="thumb" onClick=${() => show(entries, k)}>
      <span class="hidden">Enlarge ${entries[k].caption.long}</span><${Thumb} path=${e.thumb} />${label}</button>`
      : html`<span class="thumb none">${label}</span>`}</li>`;
  })}</ul>`;
}

function NewWatch({ model, show, done }) {
  const { cameras, current, watches } = useModel(model);
  const form = useRef(), running = useRef(null);
  const [threshold, setThreshold] = useState(0.8);
  const [tried, setTried] = useState(null); // { spec, result } of the last back-test
  const [busy, setBusy] = useState("");
  const [problem, setProblem] = useState("");
  const [progress, setProgress] = useState(null);
  const [changed, setChanged] = useState(0);
  useEffect(() => { form.current.querySelector("#watch-ask").focus(); return () => running.current?.abort(); }, []);

  const spec = () => {
    const f = new FormData(form.current);
    const text = (n) => String(f.get(n) || "").trim();
    const list = (n) => text(n).split(",").map((s) => s.trim()).filter(Boolean);
    const s = { stream: text("stream") || current, ask: text("ask"), threshold: Number(threshold), hold: text("hold"), cooldown: text("cooldown") };
    s.name = text("name") || nameFor(s.ask, watches.list.map((w) => w.name));
    if (f.get("on_change")) s.on_change = true;
    if (list("choices").length) [s.choices, s.fire] = [list("choices"), list("fire")];
    if (text("every")) s.every = text("every");
    if (text("webhook")) s.webhook = text("webhook");
    return s;
  };
  const good = () => form.current.reportValidity();
  const attempt = async () => {
    if (!good()) return;
    const s = spec();
    setBusy("trying"); setProblem(""); setTried(null); setProgress(null);
    running.current = new AbortController();
    try {
      setTried({ spec: s, key: JSON.stringify(s), result: await model.backtest(s, running.current.signal, setProgress) });
    } catch (e) {
      if (e.name !== "AbortError") setProblem(`It could not be tried: ${e.message}`);
    }
    running.current = null;
    setBusy("");
  };
  const enable = async () => {
    if (!good()) return;
    setBusy("enabling"); setProblem("");
    try {
      await model.createWatch(spec());
      model.announce("The standing question is enabled");
      done();
    } catch (e) {
      setProblem(`It could not be enabled: ${e.message}`);
      setBusy("");
    }
  };
  const same = tried && form.current && tried.key === JSON.stringify(spec());
  const field = (name, label, props, hint) => html`<label class="field">${label}<input name=${name} ...${props} />${hint && html`<small>
    ${hint}</small>`}</label>`;
  const time = { pattern: "([0-9.]+(ms|s|m|h))+", title: "A duration such as 5s or 10m" };
  return html`<form ref=${form} class="watch-form" id="watch-form" aria-label="New standing question" onInput=${() => setChanged(changed + 1)}
    onSubmit=${(e) => { e.preventDefault(); attempt(); }}>
    <label class="field wide">Question<input id="watch-ask" name="ask" required maxlength="500" placeholder="Is a parcel on the step?" autocomplete="off" /></label>
    ${cameras.length > 1 && html`<label class="field">Camera<select name="stream">
      ${cameras.map((c) => html`<option selected=${c.name === current}>${c.name}</option>`)}</select></label>`}
    <label class="field"><span>Fires from <output>${percent(threshold)}</output> probability</span>
      <input type="range" min="0.5" max="0.99" step="0.01" value=${threshold} onInput=${(e) => setThreshold(e.target.value)} /></label>
    ${field("hold", "Must last", { value: "5s", ...time })}
    ${field("cooldown", "Quiet after firing", { value: "10m", ...time })}
    <details><summary>More</summary><div class="fields">
      ${field("name", "Name", { maxlength: 64, autocomplete: "off", placeholder: "from the question",
        pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]{0,63}", title: "Letters, digits, - and _" })}
      ${field("choices", "Answers", { autocomplete: "off", placeholder: "yes, no" }, "With commas between; yes, no if empty")}
      ${field("fire", "Answers that fire", { autocomplete: "off", placeholder: "yes" })}
      ${field("every", "Checked every", { placeholder: "1s", ...time })}
      <label class="field check"><span>Only when the picture changed</span><input type="checkbox" name="on_change" /></label>
      ${field("webhook", "Also call this address", { type: "url", placeholder: "address of your own server", autocomplete: "off" })}
    </div></details>
    ${tried && html`<${Tried} tried=${tried} same=${same} show=${show} />`}
    ${busy === "trying" && html`<p class="status" role="status"><span class="dots" aria-hidden="true">
      </span>Trying it on the memory${progress?.total > 0 ? `: ${percent(progress.done / progress.total)}` : ""}</p>`}
    ${problem && html`<p class="trouble" role="alert">${problem}</p>`}
    <p class="actions">
      ${busy === "trying" ? html`<button type="button" class="button" onClick=${() => running.current?.abort()}>Stop</button>`
        : html`<button type="submit" id="watch-try" class=${same ? "button" : "primary"}
          disabled=${busy !== ""}>Try it on the memory</button>`}
      <button type="button" id="watch-enable" class=${same ? "primary" : "button"} disabled=${busy !== "" || (!same && !problem)}
        onClick=${enable}>${same || !problem ? "Enable" : "Enable without trying"}</button>
      <button type="button" class="link-button" onClick=${done}>Cancel</button>
    </p>
  </form>`;
}

function Tried({ tried, same, show }) {
  const r = tried.result;
  const list = r.events.filter((e) => e.kind === "fired");
  const { from, to, checks, firings: times } = r;
  const gaps = r.gaps.length ? `, with ${plural(r.gaps.length, "gap")} in which nobody was watching` : "";
  return html`<section class="tried" id="tried" role="status" data-same=${same}>
    <p><strong>${times ? `It would have fired ${times === 1 ? "once" : `${count(times)} times`}` : "It would not have fired"}</strong>
      ${from && to ? ` in ${span(from, to, to)}` : ""}${checks > 0 ? `, by ${plural(checks, "check")}` : ""}${gaps}.</p>
    ${r.coarse > 0 && html`<p class="facts">
      ${plural(r.coarse, "check")} saw an average over a span: older memory has no single pictures, so a short event may be missed there.</p>`}
    ${r.samples?.length > 1 && html`<${Curve} r=${r} fired=${list} />`}
    ${list.length > 0 && html`<${Moments} list=${list} show=${show} what=${tried.spec.ask} />`}
    ${!same && html`<p class="facts">You changed something since. Try it again before you enable it.</p>`}
  </section>`;
}

// Curve draws the probability over time, the threshold, and when it would have fired.
function Curve({ r, fired }) {
  const from = Date.parse(r.from), to = Math.max(Date.parse(r.to), from + 1), width = 600, height = 64;
  const x = (t) => (width * (Date.parse(t) - from)) / (to - from), y = (p) => 2 + (height - 4) * (1 - p);
  const lines = [[]]; // one for each stretch without a gap
  for (const [n, s] of r.samples.entries()) {
    if (n > 0 && r.gaps.some((g) => g.to > r.samples[n - 1].at && g.from < s.at)) lines.push([]);
    lines.at(-1).push(`${x(s.at).toFixed(1)},${y(s.probability).toFixed(1)}`);
  }
  const most = r.samples.reduce((a, b) => (a.probability > b.probability ? a : b));
  return html`<figure class="curve"><svg viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img"
      aria-label=${`Probability over time: at most ${percent(most.probability)}, at ${clock(most.at)}; it fires from ${percent(r.threshold)}`}>
    <line class="level" x1="0" x2=${width} y1=${y(r.threshold)} y2=${y(r.threshold)}></line>
    ${r.gaps.map((g) => html`<rect class="unseen" x=${x(g.from)} width=${Math.max(1, x(g.to) - x(g.from))} y="0" height=${height}></rect>`)}
    ${lines.map((l) => html`<polyline points=${l.join(" ")}></polyline>`)}
    ${fired.map((e) => html`<line class="fire" x1=${x(e.at)} x2=${x(e.at)} y1="0" y2=${height}></line>`)}
  </svg><figcaption><span>${moment(r.from, r.to)}</span><span>probability; dashed: fires from ${percent(r.threshold)}</span><span>
    ${clock(r.to)}</span></figcaption></figure>`;
}
