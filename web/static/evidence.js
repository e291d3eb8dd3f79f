// What an answer was given: its moments, when was watched, and how fresh that is. Being in the prompt is not the same as having
// caused the answer, and the words here never say so.
import { html, useLayoutEffect, useRef, useState } from "./htm-preact.js";
import { Thumb } from "./camera.js";
import { clock, duration, moment, percent, plural, span } from "./format.js";
import { Meter } from "./icon.js";

const FEW = 12; // moments shown before "show all"
const rank = { newest: 2, detail: 1 };

// shown is the time that stands below a moment: the picture's, or the beginning of the span that it stands for.
const shown = (i) => (i.role === "synopsis" ? i.from : i.at || i.from);

// Evidence shows one answer's; several: it may be about more than one camera, so moments say whose they are.
export function Evidence({ ev, several, show }) {
  const [all, setAll] = useState(false);
  const [lost, setLost] = useState({});
  const items = [...(ev.items || [])].sort((a, b) => Date.parse(shown(a)) - Date.parse(shown(b)));
  const pictures = items.filter((i) => i.thumb);
  const shares = items.some((i) => i.share > 0);
  const apart = items.reduce((sum, i) => sum + (i.share || 0), 0) > 1.01; // shares of several prompts
  const most = Math.max(...items.map((i) => i.share || 0));
  const worth = (i) => (i.share || 0) * 100 + (rank[i.role] || 0) + (i.weight || 0) * 1e-6;
  const chosen = new Set([...pictures].sort((a, b) => worth(b) - worth(a)).slice(0, FEW));
  const entries = pictures.map((item) => ({ item, caption: caption(item, ev.as_of, several) }));
  const cameras = ev.cameras || ev.streams || [];
  // The strip begins where the model looked most, or else at the newest moment.
  const strip = useRef();
  useLayoutEffect(() => {
    const s = strip.current;
    if (!s) return;
    const to = s.querySelector('[data-most="true"]')?.closest("li");
    s.scrollLeft = to ? to.offsetLeft - s.offsetLeft - (s.clientWidth - to.offsetWidth) / 2 : s.scrollWidth;
  }, [ev]);
  return html`<section class="evidence" aria-label="Evidence">
    ${pictures.length > 0 && html`<ul ref=${strip} class="strip" aria-label="Moments the answer was given" tabindex="0">
      ${entries.map((e, n) => (all || chosen.has(e.item)) && html`<li key=${e.item.thumb + n} class=${lost[n] ? "lost" : ""}>
        <button type="button" class="thumb" onClick=${() => show(entries, n)}><span class="hidden">
          ${e.item.clip ? "Play" : "Enlarge"} ${e.caption.long}</span>
          <${Thumb} path=${e.item.thumb} onLost=${() => setLost((l) => ({ ...l, [n]: true }))} />
          ${(several || e.item.role !== "detail") && html`<span class="role" aria-hidden="true" data-role=${e.item.role}>
            ${several ? e.item.stream : e.caption.role}</span>`}
          ${e.item.clip && html`<span class="play" aria-hidden="true"></span>`}
          <time aria-hidden="true" datetime=${shown(e.item)}>${e.caption.short}</time>
          ${shares && html`<span class="share" aria-hidden="true" data-most=${e.item.share === most}>
            <${Meter} value=${(e.item.share || 0) / most} />${e.item.share == null ? "–" : percent(e.item.share)}</span>`}
        </button></li>`)}
    </ul>`}
    ${pictures.length > FEW && !all && html`<button type="button" class="small all"
      onClick=${() => setAll(true)}>Show all ${pictures.length} moments</button>`}
    ${shares && html`<p
      class="caution">Percent: share of the model's attention as it began to answer. It was read; that does not prove that the answer rests on it.${apart ? " Each camera was asked by itself." : ""}</p>`}
    ${cameras.length ? cameras.map((c) => html`<${Times} ev=${c} items=${items.filter((i) => i.stream === c.stream)} name=${c.stream} />`)
      : html`<${Times} ev=${ev} items=${items} />`}
    ${ev.cut?.length > 0 && html`<p class="fresh cut">Cut: ${ev.cut.join("; ")}</p>`}
  </section>`;
}

// Times says when one camera was watched and as of when the answer speaks of it.
const Times = ({ ev, items, name }) => html`<div class="times">
  ${ev.as_of && html`<${Timeline} ev=${ev} items=${items} />`}
  <p class="fresh">${name && html`<strong>${name}</strong> `}${freshness(ev)}</p></div>`;

export function caption(i, asOf, several) {
  const role = { newest: "newest", detail: "moment", synopsis: "span" }[i.role] || i.role || "moment";
  const short = moment(shown(i), asOf);
  const over = i.from === i.to ? "" : span(i.from, i.to, asOf);
  const what = i.role === "synopsis" ? `span ${over || short}${i.at ? `, picture of ${moment(i.at, asOf)}` : ""}`
    : `${role === "newest" ? "newest frame" : "moment"} ${short}${over && `, standing for ${over}`}`;
  const long = (several && i.stream ? `${i.stream}: ` : "") + what + (i.share == null ? "" : `, ${percent(i.share)} of attention`);
  return { role, short, long };
}

// Timeline draws when was watched, where the gaps are, and when the given moments lie.
function Timeline({ ev, items }) {
  const coverage = ev.coverage || [], gaps = ev.gaps || [];
  const times = [...coverage.flatMap((s) => [s.from, s.to]), ...items.flatMap((i) => [i.from, i.to]), ev.as_of].filter(Boolean).map((t) => Date.parse(t));
  const from = Math.min(...times), to = Math.max(...times);
  const at = (t) => (to > from ? (100 * (Date.parse(t) - from)) / (to - from) : 0);
  const wide = (a, b) => ({ left: `${at(a)}%`, width: `${Math.max(0.4, at(b) - at(a))}%` });
  const first = coverage[0]?.from || items[0]?.from;
  return html`<div class="timeline">
    <div class="bar" role="img" aria-label=${`When was watched: ${watched(ev)}`}>
      ${coverage.map((s) => html`<span class="seen" data-level=${s.level} style=${wide(s.from, s.to)}></span>`)}
      ${gaps.map((s) => html`<span class="gap" style=${wide(s.from, s.to)}></span>`)}
      ${ev.focus && html`<span class="focus" style=${wide(ev.focus.from, ev.focus.to)}></span>`}
      ${items.map((i) => i.role !== "synopsis" && html`<span class=${`tick ${i.role || ""}`} style=${{ left: `${at(i.at || i.from)}%` }}>
        </span>`)}
    </div>
    <div class="ends" aria-hidden="true"><span>${moment(first, ev.as_of)}</span><span>${clock(ev.as_of)}</span></div>
  </div>`;
}

function watched(ev) {
  const c = ev.coverage || [], gaps = ev.gaps || [];
  if (!c.length) return "nothing watched yet";
  const few = gaps.slice(-2).map((g) => span(g.from, g.to, ev.as_of));
  const missing = gaps.length ? `${plural(gaps.length, "gap")}: ${gaps.length > 2 ? "… " : ""}${few.join(", ")}` : "no gaps";
  return `watched ${span(c[0].from, c[c.length - 1].to, ev.as_of)}, ${missing}`;
}

// freshness says as of when an answer speaks, how far behind that is, and what it could not know.
export function freshness(ev) {
  if (!ev.as_of) return "Nothing was seen yet";
  const parts = [`As of ${clock(ev.as_of)}`, ev.lag_ms < 1000 ? `${ev.lag_ms} ms behind` : `${duration(ev.lag_ms)} behind`];
  if (ev.focus) parts.push(`asked about ${span(ev.focus.from, ev.focus.to, ev.as_of)}`);
  if (ev.prefer) parts.push(`the ${ev.prefer} of what fits`);
  if (ev.note) parts.push(ev.note);
  if (ev.stream_state && ev.stream_state !== "live") parts.push(`camera ${ev.stream_state}${ev.state_since ? ` since ${moment(ev.state_since, ev.as_of)}` : ""}`);
  parts.push(watched(ev));
  return parts.join(" · ");
}
