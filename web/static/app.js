// The page: its frame, its views, its keys. Views are addresses (#ask, #memory, #watches), so that the browser's back works.
import { html, render, useCallback, useEffect, useRef, useState } from "./htm-preact.js";
import { Numbers, Others, Screen } from "./camera.js";
import { duration } from "./format.js";
import { Icon } from "./icon.js";
import { Memory } from "./memory.js";
import { Model, useModel, useTick } from "./model.js";
import { takeTokenFromAddress, token } from "./socket.js";
import { Talk } from "./talk.js";
import { Viewer } from "./viewer.js";
import { Watches } from "./watches.js";

const views = [["ask", "Ask"], ["memory", "Memory"], ["watches", "Standing", "questions"]]; // address, name, and what a phone leaves out of it
const THEME = "afterimage.theme";
const themes = { auto: "System", light: "Light", dark: "Dark" };

const shortcuts = [
  ["/", "go to the question box"], ["Enter", "ask"], ["Shift Enter", "start a new line in the question"],
  ["↑ ↓", "earlier and later questions, in the box"],
  ["Esc", "stop the answer"], ["1 2 3", "ask, memory, standing questions"], ["[ ]", "the camera before, the next camera"],
  ["← →", "the moment before, the next moment"],
  ["t", "system, light or dark colours"], ["?", "this list"],
];

const viewNow = () => views.find(([id]) => `#${id}` === location.hash)?.[0] || "ask";

function useView() {
  const [view, setView] = useState(viewNow());
  useEffect(() => {
    const changed = () => setView(viewNow());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return view;
}

function useTheme() {
  const [theme, set] = useState(() => localStorage.getItem(THEME) || "auto");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    if (theme === "auto") localStorage.removeItem(THEME);
    else localStorage.setItem(THEME, theme);
    document.querySelector("meta[name=color-scheme]").content = theme === "auto" ? "light dark" : theme;
  }, [theme]);
  const names = Object.keys(themes);
  return [theme, () => set((now) => names[(names.indexOf(now) + 1) % names.length])];
}

function App({ model }) {
  const state = useModel(model);
  const view = useView();
  const [theme, nextTheme] = useTheme();
  const [opened, setOpened] = useState(null);
  const [help, setHelp] = useState(false);
  const camera = model.current;
  const fired = state.watches.list.filter((w) => w.state === "fired" && !w.paused).length;

  useEffect(() => {
    document.title = camera ? `${camera.name}: ${camera.state} · Afterimage` : "Afterimage";
  }, [camera?.name, camera?.state]);

  // The heading of a new view takes the focus, so that the keyboard and screen readers go on from there.
  const main = useRef(), first = useRef(true);
  useEffect(() => {
    if (first.current) { first.current = false; return; }
    const to = view === "ask" ? document.getElementById("question") : main.current?.querySelector("h2");
    if (view !== "ask" || matchMedia("(min-width: 900px)").matches) to?.focus();
  }, [view]);

  useEffect(() => {
    const keys = (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
      if (e.key === "Escape") return model.cancel(model.state.turns.findLast((t) => !t.done));
      if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) return;
      const go = { 1: "ask", 2: "memory", 3: "watches" }[e.key];
      if (go) location.hash = go;
      else if (e.key === "[") model.step(-1);
      else if (e.key === "]") model.step(1);
      else if (e.key === "t") nextTheme();
      else if (e.key === "?") setHelp(true);
      else if (e.key === "/") {
        e.preventDefault();
        if (view !== "ask") location.hash = "ask";
        requestAnimationFrame(() => document.getElementById("question")?.focus());
      } else return;
    };
    document.addEventListener("keydown", keys);
    return () => document.removeEventListener("keydown", keys);
  });

  const show = useCallback((entries, at) => setOpened({ entries, at }), []);
  return html`
    <header class="top">
      <a class="skip" href="#main"
        onClick=${(e) => { e.preventDefault(); (document.getElementById("question") || main.current).focus(); }}>Skip to the content</a>
      <h1><img src="/static/icon.svg" alt="" width="26" height="26" /><span>Afterimage</span></h1>
      <nav class="views" aria-label="Views"><ul>${views.map(([id, name, more]) => html`<li key=${id}>
        <a href=${`#${id}`} aria-current=${view === id ? "page" : undefined}><${Icon} name=${id} /><span>
          ${name}${more && html`<span class="more"> ${more}</span>`}</span>
          ${id === "watches" && fired > 0 && html`<span class="count"><span class="hidden">, </span>
            ${fired}<span class="hidden"> fired now</span></span>`}</a></li>`)}</ul></nav>
      <${Link} model=${model} />
      <button type="button" id="theme" class="plain" onClick=${nextTheme} aria-label=${`Colours: ${themes[theme]}. Change`} title="Colours">
        <${Icon} name=${theme} /><span class="word">${themes[theme]}</span></button>
      <button type="button" id="help-open" class="plain" onClick=${() => setHelp(true)}
        aria-label="Keyboard shortcuts" title="Keyboard shortcuts">?</button>
    </header>
    <main ref=${main} id="main" tabindex="-1" data-view=${view}>
      ${state.phase === "ready" && !camera && html`<${Empty} />`}
      ${camera && html`<section class="watch" aria-label="Live picture">
        <${Screen} model=${model} camera=${camera} />
        <${Others} model=${model} />
        <${Numbers} model=${model} />
      </section>
      <section class="panel" aria-label=${views.find(([id]) => id === view).slice(1).join(" ")}>
        <${Banner} model=${model} />
        ${view === "ask" && html`<${Talk} model=${model} show=${show} />`}
        ${view === "memory" && html`<${Memory} key=${camera.name} model=${model} show=${show} />`}
        ${view === "watches" && html`<${Watches} model=${model} show=${show} />`}
      </section>`}
      ${!camera && state.phase !== "ready" && html`<div class="empty"><${Banner} model=${model} />
        ${state.phase === "starting" && html`<p>Loading…</p>`}</div>`}
    </main>
    <div id="announce" class="hidden" aria-live="polite" aria-atomic="true">${state.announcement}</div>
    <${Viewer} opened=${opened} go=${(at) => setOpened((o) => ({ ...o, at }))} close=${() => setOpened(null)} />
    <${Help} open=${help} close=${() => setHelp(false)} />
    ${state.phase === "unauthorized" && html`<${TokenDialog} />`}`;
}

function Link({ model }) {
  const { phase } = useModel(model);
  const link = phase === "unauthorized" ? "unauthorized" : model.current?.link || (phase === "unreachable" ? "waiting" : "connecting");
  const text = { open: "Connected", connecting: "Connecting…", waiting: "Not connected", unauthorized: "Token needed", idle: "Connecting…" }[link];
  return html`<span id="link" class="link" role="status" data-link=${link}><span class="word">${text}</span></span>`;
}

function Banner({ model }) {
  useTick(500);
  const { phase, retryAt } = useModel(model);
  const camera = model.current;
  const at = phase === "unreachable" ? retryAt : camera?.link === "waiting" ? camera.retryAt : 0;
  if (!at) return null;
  return html`<div id="banner" class="banner" role="alert"><span>The server does not answer. Is it running? Trying again <span
    aria-hidden="true">in ${duration(at - performance.now())}</span>.</span>${" "}
    ${camera && html`<button type="button" class="small" id="retry" onClick=${() => model.retry()}>Try now</button>`}</div>`;
}

const Empty = () => html`<div class="empty"><h2>No camera to show</h2>
  <p>None is configured, or your token may see none. Cameras stand in the configuration under <code>streams:</code>;
    a new one appears here by itself. To try without a camera: <code>afterimage demo</code>.</p></div>`;

function Help({ open, close }) {
  const dialog = useRef();
  useEffect(() => { if (open) dialog.current.showModal(); }, [open]);
  return html`<dialog ref=${dialog} id="help" class="help" aria-labelledby="help-title" onClose=${close}
    onClick=${(e) => e.target === dialog.current && dialog.current.close()}>
    <h2 id="help-title">Keyboard shortcuts</h2>
    <dl>${shortcuts.map(([keys, what]) => html`<div><dt>${keys.split(" ").map((k) => html`<kbd>${k}</kbd> `)}</dt><dd>${what}</dd>
      </div>`)}</dl>
    <p><button type="button" class="small" onClick=${() => dialog.current.close()}>Close</button></p>
  </dialog>`;
}

// TokenDialog asks for the token once; it is kept for this tab only.
function TokenDialog() {
  const dialog = useRef(), box = useRef();
  const wrong = token.get() !== "";
  useEffect(() => { dialog.current.showModal(); }, []);
  const submit = (e) => {
    e.preventDefault();
    token.set(box.current.value.trim());
    location.reload();
  };
  return html`<dialog ref=${dialog} id="token" class="token" aria-labelledby="token-title" onCancel=${(e) => e.preventDefault()}>
    <form id="token-form" onSubmit=${submit}>
      <h2 id="token-title">This server needs a token</h2>
      <p id="token-note">
        ${wrong ? "That token is not accepted. Check it with whoever runs the server." : "Whoever runs the server has it. It is kept for this tab only."}</p>
      <label for="token-value">Token</label>
      <input ref=${box} id="token-value" type="password" autocomplete="current-password" required aria-describedby="token-note" />
      <button type="submit" class="primary">Continue</button>
    </form>
  </dialog>`;
}

takeTokenFromAddress();
const model = new Model();
render(html`<${App} model=${model} />`, document.getElementById("app"));
model.start();
