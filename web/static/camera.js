// Cameras: the live picture, its state in words, the other cameras, and the numbers.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { bytes, clock, count, duration, moment, plural } from "./format.js";
import { addressOf, useModel, useTick } from "./model.js";
import { api } from "./socket.js";

const notes = {
  connecting: "Connecting to the camera…",
  stalled: "The camera is connected but sends no pictures. What it showed before can be asked.",
  frozen: "The picture has not changed for a while: the camera may be frozen.",
  offline: "The camera cannot be reached. Trying again until it is back; what it showed before can be asked.",
  ended: "The video has ended. Its memory can still be asked.",
};

// known says whether the camera's state is news or only a memory.
const known = (c) => c.link === "open" || (c.link === "idle" && performance.now() - c.heard < 12000);

export function Badge({ camera }) {
  const state = known(camera) ? camera.state : "unknown";
  return html`<span class="badge" data-state=${state}>${state}</span>`;
}

// ago is how long the camera has been in its state, by the server's clock.
function inState(c) {
  if (!c.since || !c.lastFrame || c.lagMS == null) return null;
  const now = Date.parse(c.lastFrame) + c.lagMS + (performance.now() - c.heard);
  return Math.max(0, now - Date.parse(c.since));
}

function lagText(c) {
  if (!known(c)) return c.lastFrame ? "not connected" : "";
  if (c.lagMS == null) return "";
  if (c.state === "live") return c.lagMS < 1000 ? "under 1 s behind" : `${duration(c.lagMS)} behind`;
  if (c.state === "ended") return "";
  return `last picture ${duration(c.lagMS + performance.now() - c.heard)} ago`;
}

export function Screen({ model, camera }) {
  useTick(1000);
  const canvas = useRef(), next = useRef(null), drawing = useRef(false);
  const [shown, setShown] = useState("");
  useEffect(() => {
    const context = canvas.current.getContext("2d", { alpha: false });
    let alive = true;
    const off = model.onPicture(camera.name, async (buffer) => { // 16 bytes of header, then a JPEG
      if (buffer.byteLength <= 16) return;
      next.current = buffer;
      if (drawing.current) return; // the loop below takes the newest when it is done
      drawing.current = true;
      while (next.current && alive) {
        const jpeg = new Blob([new Uint8Array(next.current, 16)], { type: "image/jpeg" });
        next.current = null;
        try {
          const bitmap = await createImageBitmap(jpeg);
          if (!alive) break;
          const c = context.canvas;
          if (c.width !== bitmap.width || c.height !== bitmap.height) [c.width, c.height] = [bitmap.width, bitmap.height];
          context.drawImage(bitmap, 0, 0);
          bitmap.close();
          c.dataset.pictures = 1 + Number(c.dataset.pictures || 0);
          setShown(camera.name);
        } catch { /* a picture that cannot be read is skipped; the next one comes soon */ }
      }
      drawing.current = false;
    });
    return () => { alive = false; off(); };
  }, [camera.name]);
  const state = known(camera) ? camera.state : "unknown";
  const still = inState(camera);
  const said = camera.state + (still == null ? "" : ` for ${duration(still)}`) + (camera.since ? `, since ${moment(camera.since, camera.lastFrame)}` : "");
  const note = notes[camera.state] || (shown === camera.name ? "" : "Waiting for the first picture…");
  const quiet = camera.state === "live" || camera.state === "frozen" || camera.state === "ended" ? shown !== camera.name : true;
  return html`<figure class="screen" id="screen" data-state=${camera.state} data-unlinked=${!known(camera)}>
    <canvas key=${camera.name} ref=${canvas} id="picture" width="640" height="360" role="img"
      aria-label=${`Live picture of ${camera.name}, ${state}`}></canvas>
    ${note && quiet && html`<p id="screen-note" class="screen-note">${note}</p>`}
    <figcaption>
      <span id="state"><${Badge} camera=${camera} /></span>
      ${camera.lastFrame && html`<span class="when"><time id="clock" datetime=${camera.lastFrame}>${clock(camera.lastFrame)}</time>
        <span id="lag">${lagText(camera)}</span></span>`}
    </figcaption>
  </figure>
  <p class="state-line" id="state-line" data-quiet=${state === "live" && model.state.cameras.length > 1}>
    <strong>${camera.name}</strong>${" "}
    <span>${known(camera) ? said : "not known: the page is not connected"}</span>
    ${camera.source && html`<span class="source" title="Where the pictures come from">${camera.source}</span>`}
  </p>
  ${known(camera) && note && !quiet && html`<p class="trouble">${note}</p>`}
  ${camera.error && html`<p id="trouble" class="trouble">${camera.since ? `${clock(camera.since)}  ` : ""}${camera.error}</p>`}`;
}

// Others is the list of all cameras when there are several: a small picture each, renewed every few seconds.
export function Others({ model }) {
  const { cameras, current } = useModel(model);
  if (cameras.length < 2) return null;
  return html`<nav class="others" aria-label="Cameras"><ul>
    ${cameras.map((c) => html`<li key=${c.name}>
      <button type="button" aria-current=${c.name === current ? "true" : "false"} onClick=${() => model.select(c.name)}>
        <${Tile} camera=${c} />
        <span class="name">${c.name}</span> <${Badge} camera=${c} />
      </button></li>`)}
  </ul></nav>`;
}

function Tile({ camera }) {
  const [url, setURL] = useState("");
  useEffect(() => {
    let alive = true, shown = "";
    const draw = async () => {
      if (document.hidden) return;
      try {
        const blob = await (await api(`/api/streams/${camera.name}/frame.jpeg`)).blob();
        if (!alive) return;
        const old = shown;
        setURL(shown = URL.createObjectURL(blob));
        if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
      } catch { /* there is no picture yet, or the server is away: the badge says so */ }
    };
    draw();
    const timer = setInterval(draw, 4000);
    return () => { alive = false; clearInterval(timer); if (shown) URL.revokeObjectURL(shown); };
  }, [camera.name]);
  return url ? html`<img src=${url} alt="" width="112" height="63" />` : html`<span class="no-tile" aria-hidden="true"></span>`;
}

export function Numbers({ model }) {
  const { turns } = useModel(model);
  const c = model.current, m = c?.memory;
  const last = turns.findLast((t) => t.response?.timings?.first_token_ms > 0)?.response.timings;
  const cells = [
    ["Remembers", "m-span", m?.oldest ? duration(Date.parse(m.newest) - Date.parse(m.oldest)) : "nothing yet",
      m?.oldest ? `since ${m.oldest.slice(0, 10)} ${clock(m.oldest)}` : ""],
    ["Memory size", "m-bytes", m ? bytes(m.bytes) : "–", m ? `${plural(m.entries, "moment")}, ${plural(m.tokens, "visual token")}` : ""],
    ["Moments", "m-entries", m ? count(m.entries) : "–", m ? plural(m.tokens, "visual token") : ""],
    ["Frames seen", "m-frames", c ? count(c.frames ?? 0) + (c.dropped ? ` (${count(c.dropped)} dropped)` : "") : "–", ""],
    ["First word", "m-first", last ? `${Math.round(last.first_token_ms)} ms` : "–", "of the newest answer"],
    ["Speed", "m-rate", last?.tokens_per_s > 0 ? `${Math.round(last.tokens_per_s)} tokens/s` : "–", "of the newest answer"],
  ];
  return html`<dl class="numbers" aria-label="Memory and speed">
    ${cells.map(([name, id, value, title]) => html`<div key=${id} title=${title}><dt>${name}</dt><dd id=${id}>${value}</dd></div>`)}
  </dl>`;
}

// Thumb shows a picture that may need the token.
export function Thumb({ path, alt = "", onLost }) {
  const [url, setURL] = useState("");
  useEffect(() => {
    let alive = true;
    setURL("");
    addressOf(path).then((u) => alive && setURL(u), () => alive && onLost?.());
    return () => { alive = false; };
  }, [path]);
  return html`<img src=${url || undefined} alt=${alt} width="120" height="68" decoding="async" onError=${() => url && onLost?.()} />`;
}
