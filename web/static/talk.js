// The conversation: questions, their streamed answers with evidence and numbers, and the box to ask.
import { html, useEffect, useLayoutEffect, useRef } from "./htm-preact.js";
import { Evidence } from "./evidence.js";
import { count, plural, span } from "./format.js";
import { useModel } from "./model.js";

export function Talk({ model, show }) {
  const { turns, cameras, current, notice } = useModel(model);
  const scroll = useRef(), following = useRef(true), moved = useRef(0), drawn = useRef(new WeakMap());
  const last = turns.at(-1);

  // A turn that did not change is not drawn again while another one streams in: the same node means the same content.
  const several = cameras.length > 1;
  const draw = (turn) => {
    let d = drawn.current.get(turn);
    if (d?.several !== several) drawn.current.set(turn, d = { several, node: html`<${Turn} key=${turn.id} turn=${turn} model=${model} show=${show} several=${several} />` });
    return d.node;
  };

  // The newest answer's end is kept in view as it grows, unless the reader scrolled away. The evidence that comes below the answer
  // does not push the question out of view.
  useLayoutEffect(() => {
    const s = scroll.current, node = s.querySelector(".log > :last-child");
    if (!node || !following.current) return;
    const top = node.offsetTop - 12, answer = node.querySelector(".answer");
    let to = Math.min(s.scrollHeight - s.clientHeight, top);
    if (!last.done && answer) to = Math.max(to, answer.offsetTop + answer.offsetHeight + 24 - s.clientHeight);
    if (to > s.scrollTop) s.scrollTop = moved.current = to;
  });
  useEffect(() => { following.current = true; }, [last?.id]);
  const scrolled = () => {
    const s = scroll.current;
    following.current = s.scrollTop >= moved.current - 4 || s.scrollHeight - s.scrollTop - s.clientHeight < 80;
    if (following.current) moved.current = s.scrollTop;
  };

  return html`<div class="scroll" id="scroll" ref=${scroll} onScroll=${scrolled} tabindex="0" role="region" aria-label="Conversation">
    ${turns.length === 0 && html`<${Welcome} model=${model} />`}
    <ol id="log" class="log">${turns.map(draw)}</ol>
    ${turns.some((t) => t.camera === current) && turns.every((t) => t.done) && html`<p class="fresh-start">
      <button type="button" class="link-button" id="fresh" onClick=${() => model.fresh()}>New conversation</button></p>`}
  </div>
  ${notice && html`<div class="banner calm" id="notice"><span>${notice}</span> <button type="button" class="small"
    onClick=${() => model.set({ notice: "" })}>Dismiss</button></div>`}
  <${AskForm} model=${model} />`;
}

function Welcome({ model }) {
  const c = model.current;
  const empty = c && !c.lastFrame;
  return html`<div id="welcome" class="welcome">
    <h2>Ask what happened</h2>
    <p>Every frame is seen once and kept as memory. Ask about this moment or about anything since watching began;
      the answer shows which moments it was given, and how fresh they are.</p>
    ${empty && html`<p>Nothing has been seen yet. Questions can be answered as soon as the first picture comes.</p>`}
    ${c?.suggestions?.length > 0 && html`<div class="try" role="group" aria-label="Questions to try">
      ${c.suggestions.slice(0, 4).map((text) => html`<button type="button" onClick=${() => model.ask(text)}>${text}</button>`)}</div>`}
  </div>`;
}

function Turn({ turn, model, show, several }) {
  const { response: r } = turn;
  const asked = r?.question_as_asked || turn.evidence.find((e) => e.question_as_asked)?.question_as_asked;
  return html`<li class="turn" data-status=${turn.status}>
    <div class="question"><p>${turn.question}</p>
      ${(several || turn.range) && html`<p class="of">
        ${turn.cameras.join(", ")}${turn.range ? ` · ${span(turn.range.from, turn.range.to)}` : ""}</p>`}</div>
    <article class="card" aria-label="Answer" aria-busy=${!turn.done} data-response-id=${turn.responseID || undefined}>
      ${asked && asked !== turn.question && html`<p class="as-asked">Understood as: ${asked}</p>`}
      ${turn.text && html`<p class="answer">${turn.text}</p>`}
      ${!turn.text && !turn.done && html`<p class="status"><span class="dots" aria-hidden="true"></span>
        ${turn.broken ? "The connection is lost; the answer goes on when it is back" : "Looking at the memory"}</p>`}
      ${!turn.done && html`<button type="button" class="small stop" disabled=${!turn.responseID}
        onClick=${() => model.cancel(turn)}>Stop</button>`}
      ${turn.outcome && html`<p class="outcome">${turn.outcome}${" "}
        ${turn.status !== "incomplete" && html`<button type="button" class="small again"
          onClick=${() => model.askAgain(turn)}>Ask again</button>`}</p>`}
      ${turn.evidence.map((ev, n) => html`<${Evidence} key=${n} ev=${ev} several=${turn.cameras.length > 1} show=${show} />`)}
      ${r && html`<${Chips} r=${r} />`}
    </article>
  </li>`;
}

function Chips({ r }) {
  const chips = [];
  const put = (kind, text) => chips.push(html`<li data-chip=${kind}>${text}</li>`);
  if (r.from_coverage) put("coverage", "Known from the watch log, no model asked");
  if (r.timings?.first_token_ms > 0) put("first", `first word ${Math.round(r.timings.first_token_ms)} ms`);
  if (r.timings?.tokens_per_s > 0) put("rate", `${Math.round(r.timings.tokens_per_s)} tokens/s`);
  if (r.usage?.output_tokens > 0) put("tokens", plural(r.usage.output_tokens, "token"));
  if (r.usage?.input_token_details?.visual_tokens > 0) put("visual", `${count(r.usage.input_token_details.visual_tokens)} visual tokens read`);
  return chips.length > 0 && html`<ul class="chips" aria-label="Timings">${chips}</ul>`;
}

function AskForm({ model }) {
  const { cameras, current, also, turns, range } = useModel(model);
  const box = useRef(), at = useRef(0);
  const open = model.linked;
  const suggestions = model.current?.suggestions || [];
  const fit = () => { box.current.style.height = "auto"; box.current.style.height = `${Math.min(box.current.scrollHeight, 140)}px`; };
  const put = (text) => { box.current.value = text; fit(); };
  const ask = (text) => {
    if (model.ask(text)) {
      at.current = model.asked.length;
      return true;
    }
    if (text.trim()) nudge();
    return false;
  };
  const submit = (e) => {
    e.preventDefault();
    if (ask(box.current.value)) put("");
    box.current.focus();
  };
  const keys = (e) => {
    if (e.isComposing) return;
    const { value } = box.current;
    if (e.key === "Enter" && !e.shiftKey) submit(e);
    else if (e.key === "ArrowUp" && at.current > 0 && (value === "" || value === model.asked[at.current])) {
      e.preventDefault();
      put(model.asked[--at.current]);
    } else if (e.key === "ArrowDown" && value !== "" && value === model.asked[at.current]) {
      e.preventDefault();
      put(model.asked[++at.current] || "");
    }
  };
  useEffect(() => { at.current = model.asked.length; if (matchMedia("(min-width: 900px)").matches) box.current.focus(); }, [current]);
  const others = cameras.filter((c) => c.name !== current);
  return html`<form id="ask" class="ask" autocomplete="off" onSubmit=${submit}>
    ${turns.length > 0 && suggestions.length > 0 && html`<div id="suggestions" class="suggestions" role="group"
      aria-label="Suggested questions">
      ${suggestions.map((text) => html`<button type="button" onClick=${() => ask(text)}>${text}</button>`)}</div>`}
    ${(others.length > 0 || range) && html`<div class="scope">
      ${others.length > 0 && html`<span id="scope-name">Asking</span> <span class="chosen">${current}</span>
        ${others.map((c) => html`<button type="button" aria-pressed=${also.includes(c.name)} onClick=${() => model.toggleAlso(c.name)}>
          ${also.includes(c.name) ? "" : "+ "}${c.name}</button>`)}`}
      ${range && html`<button type="button" id="range" aria-label=${`About ${span(range.from, range.to)} only; remove`}
        onClick=${() => model.about(null)}>about ${span(range.from, range.to)} ×</button>`}
    </div>`}
    <div class="box">
      <label class="hidden" for="question">Your question</label>
      <textarea ref=${box} id="question" rows="1" maxlength="1000" placeholder=${turns.length ? "Ask on…" : "Ask what happened…"}
        enterkeyhint="send" onInput=${fit} onKeyDown=${keys}></textarea>
      <button id="send" type="submit" disabled=${!open}>Ask</button>
    </div>
    <p class="keys"><kbd>Enter</kbd> asks, <kbd>Esc</kbd> stops the answer, <kbd>?</kbd> lists all keys</p>
  </form>`;
}

// nudge points at the sentence that says why nothing can be asked now.
function nudge() {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  document.getElementById("banner")?.animate([{ transform: "translateX(5px)" }, { transform: "translateX(-5px)" }, { transform: "none" }], 300);
}
