// The enlarged evidence: a picture, or its clip where pictures remain. Arrows walk through the moments.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { addressOf } from "./model.js";

// Viewer shows opened = { entries: [{ item, caption }], at } in a modal dialog; null: closed.
export function Viewer({ opened, go, close }) {
  const dialog = useRef();
  useEffect(() => {
    if (opened && !dialog.current.open) dialog.current.showModal();
    if (!opened && dialog.current.open) dialog.current.close();
  }, [opened]);
  const entry = opened?.entries[opened.at];
  const step = (by) => opened && opened.entries[opened.at + by] && go(opened.at + by);
  const keys = (e) => {
    if (e.target.tagName === "VIDEO") return;
    if (e.key === "ArrowLeft") step(-1);
    if (e.key === "ArrowRight") step(1);
  };
  return html`<dialog ref=${dialog} id="viewer" class="viewer" aria-label="Evidence" onClose=${close} onKeyDown=${keys}
      onClick=${(e) => e.target === dialog.current && dialog.current.close()}>
    ${entry && html`<${Shown} key=${opened.at} item=${entry.item} alt=${entry.caption.long} />
    <p><button type="button" class="small" disabled=${opened.at === 0} onClick=${() => step(-1)} aria-label="Earlier moment">‹</button>
      <span id="viewer-text" aria-live="polite">${entry.caption.long}</span>
      <button type="button" class="small" disabled=${opened.at === opened.entries.length - 1} onClick=${() => step(1)}
        aria-label="Later moment">›</button>
      <button type="button" class="small close" onClick=${() => dialog.current.close()}>Close</button></p>`}
  </dialog>`;
}

function Shown({ item, alt }) {
  const [picture, setPicture] = useState("");
  const [clip, setClip] = useState("");
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    let alive = true;
    addressOf(item.thumb).then((u) => alive && setPicture(u), () => alive && setFailed(true));
    if (item.clip) addressOf(item.clip).then((u) => alive && setClip(u), () => {}); // the picture stays
    return () => { alive = false; };
  }, [item]);
  if (failed) return html`<p class="lost-picture">This picture is not kept any more.</p>`;
  if (clip) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    return html`<video id="viewer-clip" src=${clip} poster=${picture || undefined} controls loop muted playsinline autoplay=${!calm}
      aria-label=${`Clip: ${alt}`} onError=${() => setClip("")}></video>`;
  }
  return html`<img id="viewer-image" src=${picture || undefined} alt=${alt} />`;
}
