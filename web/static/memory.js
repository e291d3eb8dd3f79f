// The memory inspector: every remembered entry on a time line, by level; what a question was given of them, with its share of
// attention; and the memory's size over time.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./htm-preact.js";
import { Thumb } from "./camera.js";
import { caption } from "./evidence.js";
import { bytes, clock, count, duration, like, moment, percent, plural, span } from "./format.js";
import { useModel } from "./model.js";
import { api, Refused } from "./socket.js";

const levels = {
  newest: ["Now", "the newest frame"],
  detail: ["Moments", "a single frame kept in detail"],
  synopsis: ["Spans", "many frames merged into one"],
};
const order = Object.keys(levels);
const LANE = 34, AXIS = 24;
const zooms = [["all", Infinity], ["1 hour", 3600e3], ["10 min", 600e3], ["1 min", 60e3]];

// entriesOf reads the server's list: levels of resolution, each with its entries.
const entriesOf = (got) => got.levels.flatMap((l) => l.entries.map((e) => ({ ...e, id: e.slot, pooled: l.level, level: e.role, at: e.at || e.from })));

// useMemory reads the memory again while it is shown, as it changes.
function useMemory(model, camera) {
  const [got, setGot] = useState({ entries: null, problem: "" });
  const version = camera.memory?.version ?? 0;
  const [turn, setTurn] = useState(0);
  const read = useRef(-1);
  useEffect(() => {
    let alive = true;
    const look = async () => {
      const now = model.current?.memory?.version ?? 0;
      if (document.hidden || now === read.current) return;
      read.current = now;
      try {
        const m = await (await api(`/api/streams/${camera.name}/memory`)).json();
        if (alive) setGot({ ...m, entries: entriesOf(m), problem: "" });
      } catch (e) {
        read.current = -1;
        if (!alive) return;
        const missing = e instanceof Refused && (e.status === 404 || e.status === 501);
        const problem = missing ? "This server does not list its memory. What answers were given is shown instead." : `The memory could not be read: ${e.message}`;
        setGot((old) => ({ ...old, missing, problem }));
      }
    };
    look();
    const timer = setInterval(look, 5000);
    return () => { alive = false; clearInterval(timer); };
  }, [camera.name, turn]);
  return { ...got, version, again: () => { read.current = -1; setTurn(turn + 1); } };
}

export function Memory({ model, show }) {
  const { turns } = useModel(model);
  const camera = model.current, m = camera.memory;
  const memory = useMemory(model, camera);
  const answers = turns.filter((t) => t.evidence.some((e) => itemsFor(e, camera.name).length));
  const [picked, setPicked] = useState(null);
  const [selected, setSelected] = useState(null);
  const [zoom, setZoom] = useState(0);
  const turn = answers.find((t) => t.id === picked) || (picked === "" ? null : answers.at(-1)) || null;
  const given = (turn?.evidence || []).flatMap((e) => itemsFor(e, camera.name))
    .map((i) => ({ ...i, id: String(i.slot), level: i.role, at: i.at || i.from }));
  const entries = memory.entries || (memory.missing ? given : null);
  const newest = entries?.length ? entries.reduce((a, b) => (a.to > b.to ? a : b)).to : "";
  const whole = newest ? Date.parse(newest) - Math.min(...entries.map((e) => Date.parse(e.from))) : 0;
  const last = (turn || answers.at(-1))?.evidence.find((e) => itemsFor(e, camera.name).length); // says when was watched
  const seen = (last?.cameras || last?.streams || []).find((c) => c.stream === camera.name) || last;
  const chosen = selected && [...(entries || []), ...given].find((e) => e.id === selected);

  return html`<div class="page" id="memory">
    <h2 tabindex="-1">What ${camera.name} remembers</h2>
    <p class="lead">${m?.entries
      ? html`${duration(Date.parse(m.newest) - Date.parse(m.oldest))} in ${plural(m.entries, "moment")}: ${count(m.tokens)} visual tokens, ${bytes(m.bytes)}.${" "}
      Older frames are merged, so the size stays within its bound however long it watches.${m.strategy ? html` Strategy: <em>
        ${m.strategy}</em>.` : ""}` : "Nothing yet. Entries appear here as soon as the camera shows something."}</p>
    ${memory.problem && html`<p class="trouble" id="memory-problem">${memory.problem}${" "}${!memory.missing && html`<button type="button"
      class="small" onClick=${memory.again}>Try again</button>`}</p>`}
    ${entries?.length > 0 && html`
      <div class="tools">
        <label>Show what an answer was given <select id="memory-turn" value=${turn?.id || ""} onChange=${(e) => setPicked(e.target.value)}>
          <option value="">no answer</option>
          ${[...answers].reverse().map((t) => html`<option value=${t.id} selected=${t.id === turn?.id}>${t.question.slice(0, 60)}</option>`)}
        </select></label>
        <div class="zoom" role="group" aria-label="Stretch of time shown">${zooms.map(([name, length], n) => (n === 0 || length < whole) &&
          html`<button type="button" aria-pressed=${zoom === n} onClick=${() => setZoom(n)}>${name}</button>`)}</div>
      </div>
      <${Lanes} entries=${entries} given=${given} coverage=${seen?.coverage || []} gaps=${seen?.gaps || []}
        newest=${newest} length=${zooms[zoom][1]} selected=${selected} select=${setSelected} about=${(r) => model.about(r)} range=${model.state.range} />
      ${model.state.range && html`<p class="range"><a href="#ask"
        class="button">Ask about ${span(model.state.range.from, model.state.range.to, newest)}</a>
        <button type="button" class="small" onClick=${() => model.about(null)}>Clear</button></p>`}
      ${chosen ? html`<${Details} entry=${chosen} newest=${newest} answers=${answers} camera=${camera.name} show=${show}
          about=${(r) => { model.about(r); location.hash = "ask"; }} />`
        : html`<p class="hint">Choose an entry to see its picture. Drag across the time line to ask about a stretch.</p>`}`}
    <${SizeChart} model=${model} camera=${camera} />
  </div>`;
}

const itemsFor = (ev, camera) => (ev.items || []).filter((i) => (i.stream || ev.stream || camera) === camera);

function Lanes({ entries, given, coverage, gaps, newest, length, selected, select, about, range }) {
  const host = useRef(), [width, setWidth] = useState(700);
  const [drag, setDrag] = useState(null);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([e]) => setWidth(Math.max(240, Math.floor(e.contentRect.width))));
    watch.observe(host.current);
    return () => watch.disconnect();
  }, []);
  const end = Date.parse(newest);
  const first = Math.min(...entries.map((e) => Date.parse(e.from)));
  const from = Math.max(first, end - length), to = Math.max(end, from + 1000);
  const label = width < 480 ? 0 : 84; // a phone has no room for names beside the lanes: they stand above
  const x = (t) => label + ((width - label - 10) * ((typeof t === "number" ? t : Date.parse(t)) - from)) / (to - from) + 4;
  const time = (px) => from + ((px - label - 4) / (width - label - 10)) * (to - from);
  const present = new Set(entries.map((e) => e.level));
  const lanes = [...order.filter((l) => present.has(l)), ...[...present].filter((l) => !order.includes(l)).sort()];
  const visible = entries.filter((e) => Date.parse(e.to) >= from).sort((a, b) =>
    lanes.indexOf(a.level) - lanes.indexOf(b.level) || Date.parse(a.at) - Date.parse(b.at));
  const inAnswer = new Map(given.map((i) => [i.id, i]));
  const most = Math.max(0, ...given.map((i) => i.share || 0));
  const head = label ? 0 : 16;
  const rows = given.length ? 1 : 0;
  const laneAt = (n) => 4 + n * (LANE + head);
  const height = laneAt(lanes.length + rows) + 16 + AXIS;
  const coverAt = height - AXIS - 14;
  const name = (n, text, title) => html`<text class="lane-name" x=${label ? 0 : 4} y=${laneAt(n) + (label ? 21 : 11)}><title>${title}</title>
    ${text}</text>`;

  // The arrow keys walk through the entries; one of them is in the tab order.
  const at = Math.max(0, visible.findIndex((e) => e.id === selected));
  const keys = (e) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    const to = e.key === "Home" ? 0 : e.key === "End" ? visible.length - 1 : by ? at + by : -1;
    if (!visible[to]) return;
    e.preventDefault();
    select(visible[to].id);
    host.current.querySelector(`[data-id="${CSS.escape(visible[to].id)}"]`)?.focus();
  };

  const px = (e) => e.clientX - host.current.getBoundingClientRect().left;
  const down = (e) => e.button === 0 && px(e) > label && setDrag({ a: px(e), b: px(e) });
  const move = (e) => drag && setDrag({ ...drag, b: px(e) });
  const up = () => {
    if (drag && Math.abs(drag.a - drag.b) > 6) {
      const [a, b] = [drag.a, drag.b].sort((p, q) => p - q).map((p) => like(newest, Math.min(to, Math.max(from, time(p)))));
      about({ from: a, to: b });
    }
    setDrag(null);
  };
  const band = drag ? [Math.min(drag.a, drag.b), Math.max(drag.a, drag.b)] : range ? [x(range.from), x(range.to)] : null;

  return html`<div class="lanes" ref=${host}>
    <svg width=${width} height=${height} role="listbox" aria-label="Remembered entries, by level and time" onKeyDown=${keys}
        onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerLeave=${up}>
      ${given.length > 0 && html`<g aria-hidden="true">
        ${name(0, most ? "Attention" : "Given", most ? "share of the model's attention as it began to answer" : "what the answer was given")}
        <line class="base" x1=${label} x2=${width} y1=${laneAt(0) + head + LANE - 6} y2=${laneAt(0) + head + LANE - 6}></line>
        ${given.filter((i) => Date.parse(i.to) >= from).map((i) => {
          const h = most ? Math.max(2, ((LANE - 8) * (i.share || 0)) / most) : LANE - 14;
          const a = Math.max(label, x(i.level === "synopsis" ? i.from : i.at)), w = i.level === "synopsis" ? Math.max(3, x(i.to) - a) : 4;
          return html`<rect class="given" x=${a} y=${laneAt(0) + head + LANE - 6 - h} width=${w} height=${h} rx="1.5"><title>
            ${caption(i, newest).long}</title></rect>`;
        })}</g>`}
      ${lanes.map((l, n) => html`<g key=${l} aria-hidden="true">${name(n + rows, levels[l]?.[0] || l, levels[l]?.[1] || l)}
        <line class="base" x1=${label} x2=${width} y1=${laneAt(n + rows) + head + LANE - 2} y2=${laneAt(n + rows) + head + LANE - 2}></line>
          </g>`)}
      ${visible.map((e, n) => {
        const a = Math.max(label, x(e.from)), w = Math.max(4, x(e.to) - a - 1), y = laneAt(lanes.indexOf(e.level) + rows) + head + 4;
        const g = inAnswer.get(e.id);
        return html`<rect key=${e.id} data-id=${e.id} class="entry" data-level=${e.level} data-given=${g ? "true" : undefined} role="option"
          aria-selected=${e.id === selected}
          tabindex=${n === at ? 0 : -1} x=${Math.min(a, width - w)} y=${y} width=${w} height=${LANE - 8} rx="3"
          aria-label=${caption({ ...e, role: e.level, share: g?.share }, newest).long + (g ? ", given to the answer" : "")}
          onClick=${() => select(e.id)} onFocus=${() => select(e.id)}></rect>`;
      })}
      <g aria-hidden="true">
        ${coverage.length > 0 && name(lanes.length + rows, label ? "Watched" : "", "when the camera was watched, as of the answer")}
        ${coverage.map((s) => Date.parse(s.to) > from && html`<rect class="seen" x=${Math.max(label, x(s.from))} y=${coverAt}
          width=${Math.max(1, x(s.to) - Math.max(label, x(s.from)))} height="8" rx="2"></rect>`)}
        ${gaps.map((s) => Date.parse(s.to) > from && html`<rect class="gap" x=${Math.max(label, x(s.from))} y=${coverAt}
          width=${Math.max(2, x(s.to) - Math.max(label, x(s.from)))} height="8" rx="2">
          <title>not watched ${span(s.from, s.to, newest)}</title></rect>`)}
        ${ticks(from, to, width).map((t) => html`<text class="tick-name" x=${x(t)}
          y=${height - 5} text-anchor=${x(t) > width - 40 ? "end" : "middle"}>${tickName(like(newest, t), newest, to - from)}</text>`)}
        ${band && html`<rect class="band" x=${band[0]} y="0" width=${Math.max(1, band[1] - band[0])} height=${height - AXIS}></rect>`}
      </g>
    </svg>
  </div>`;
}

const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800].map((s) => 1000 * s);

function ticks(from, to, width) {
  const step = steps.find((s) => ((to - from) / s) * 78 <= width) || steps.at(-1);
  const list = [];
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) list.push(t);
  return list;
}

const tickName = (t, newest, length) => (length > 2 * 86400e3 ? t.slice(5, 10) : length > 600e3 ? moment(t, newest).slice(0, -3) : clock(t));

function Details({ entry, newest, answers, camera, show, about }) {
  const used = answers.filter((t) => t.evidence.some((e) => itemsFor(e, camera).some((i) => String(i.slot) === entry.id)));
  const share = used.at(-1)?.evidence.flatMap((e) => itemsFor(e, camera)).find((i) => String(i.slot) === entry.id)?.share;
  const c = caption({ ...entry, role: entry.level }, newest);
  const facts = [
    ["Kind", levels[entry.level]?.[1] || entry.level],
    ["Stands for", entry.from === entry.to ? moment(entry.from, newest)
      : `${span(entry.from, entry.to, newest)} (${duration(Date.parse(entry.to) - Date.parse(entry.from))})`],
    entry.weight > 0 && ["Frames in it", count(Math.round(entry.weight))],
    entry.tokens > 0 && ["Visual tokens", `${count(entry.tokens)}${entry.pooled > 0 ? `, each averaged from ${4 ** entry.pooled}` : ""}`],
    ["Given to", `${used.length ? plural(used.length, "answer") : "no answer"} on this page${share == null ? "" : `, last with ${percent(share)} of attention`}`],
  ].filter(Boolean);
  return html`<section class="details" id="details" aria-live="polite" aria-label="The chosen entry">
    ${entry.thumb ? html`<button type="button" class="thumb large" onClick=${() => show([{ item: entry, caption: c }], 0)}>
      <span class="hidden">Enlarge ${c.long}</span><${Thumb} path=${entry.thumb} /></button>`
      : html`<p class="no-picture">No picture is kept of it.</p>`}
    <dl>${facts.map(([k, v]) => html`<div><dt>${k}</dt><dd>${v}</dd></div>`)}</dl>
    <p><button type="button" class="small" onClick=${() => about({ from: entry.from, to: entry.to })}>Ask about this stretch</button></p>
  </section>`;
}

// SizeChart draws the memory's size and the lag since the page was opened, with uPlot.
function SizeChart({ model, camera }) {
  const host = useRef();
  const [look, setLook] = useState(0);
  useEffect(() => { // colours are drawn, so other colours mean another drawing
    const again = () => setLook((n) => n + 1);
    const scheme = matchMedia("(prefers-color-scheme: dark)"), theme = new MutationObserver(again);
    scheme.addEventListener("change", again);
    theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => { scheme.removeEventListener("change", again); theme.disconnect(); };
  }, []);
  useEffect(() => {
    const uPlot = globalThis.uPlot;
    if (!uPlot) return;
    const colour = (name) => getComputedStyle(host.current.querySelector(`[data-colour=${name}]`)).color;
    const [text, line, accent, warm] = ["text", "line", "accent", "warm"].map(colour);
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui", labelFont: "11px system-ui" };
    const data = () => {
      const list = model.samples.get(camera.name) || [];
      return [list.map((s) => s.at), list.map((s) => s.bytes / 2 ** 20), list.map((s) => (s.lag == null ? null : s.lag / 1000))];
    };
    const chart = new uPlot({
      width: host.current.clientWidth, height: 150, cursor: { y: false }, legend: { show: false },
      scales: { size: { range: (_, __, max) => [0, Math.max(0.1, 1.2 * max)] }, lag: { range: (_, __, max) => [0, Math.max(1, 1.5 * max)] } },
      series: [{}, { label: "Memory, MiB", scale: "size", stroke: accent, width: 2, points: { show: false }, fill: accent.replace(/rgb\((.*)\)/, "rgba($1, .12)") },
        { label: "Lag, s", scale: "lag", stroke: warm, width: 1.5, points: { show: false } }],
      axes: [{ ...axis, space: 76, values: (_, list) => list.map((t) => clock(like(model.current?.lastFrame, 1000 * t))) },
        { ...axis, scale: "size", size: 62, values: (_, v) => v.map((n) => `${n} MiB`.replace(" ", "\u00a0")), space: 34 },
        { ...axis, scale: "lag", side: 1, size: 42, grid: { show: false }, values: (_, v) => v.map((n) => `${n}\u00a0s`), space: 34 }],
    }, data(), host.current.querySelector(".plot"));
    const timer = setInterval(() => { if (!document.hidden) chart.setData(data()); }, 1000);
    const size = new ResizeObserver(([e]) => chart.setSize({ width: Math.floor(e.contentRect.width), height: 150 }));
    size.observe(host.current);
    return () => { clearInterval(timer); size.disconnect(); chart.destroy(); };
  }, [camera.name, look]);
  const list = model.samples.get(camera.name) || [];
  const said = list.length ? `${bytes(list[0].bytes)} when this page was opened, ${bytes(list.at(-1).bytes)} now` : "nothing measured yet";
  return html`<section class="chart" aria-label="Memory size and lag over time">
    <h3>Size and lag <span class="legend"><i data-colour="accent"></i> memory <i data-colour="warm"></i> lag of the newest frame</span></h3>
    <div ref=${host} id="chart" role="img" aria-label=${`Memory size: ${said}`}><div class="plot"></div>
      ${["text", "line", "accent", "warm"].map((c) => html`<span hidden data-colour=${c}></span>`)}</div>
  </section>`;
}
