import { Turn } from "./answers.js";
import { duration, el } from "./format.js";
import { Live } from "./live.js";
import { api, Socket, takeTokenFromAddress, token, Unauthorized } from "./socket.js";
import { prepareViewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const KEPT = 100; // turns kept in the page

const live = new Live();
const turns = []; // oldest first
const asked = []; // questions, for the up key
let recall = 0;
let socket;

const newID = (prefix) => prefix + Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

function ask(text) {
  text = text.trim();
  if (!text) return false;
  if (!socket?.open) {
    $("banner").classList.remove("nudge");
    void $("banner").offsetWidth; // restarts the animation
    $("banner").classList.add("nudge");
    return false;
  }
  const turn = new Turn(newID("item_"), text, { cancel, ask });
  turns.push(turn);
  $("welcome").hidden = true;
  $("log").append(turn.node);
  if (turns.length > KEPT) turns.shift().node.remove();
  $("scroll").scrollTop = $("scroll").scrollHeight;
  turn.node.scrollIntoView({ block: "end" });
  socket.send({ type: "conversation.item.create", event_id: `new_${turn.itemID}`,
    item: { id: turn.itemID, type: "message", role: "user", content: [{ type: "input_text", text }] } });
  socket.send({ type: "response.create", event_id: `ask_${turn.itemID}` });
  if (asked.at(-1) !== text) asked.push(text);
  recall = asked.length;
  return true;
}

function cancel(turn) {
  if (turn && !turn.done && turn.responseID) socket.send({ type: "response.cancel", response_id: turn.responseID });
}

const byResponse = (id) => turns.findLast((t) => t.responseID === id);

function handle(ev) {
  switch (ev.type) {
    case "session.created":
      suggest(ev.session.suggestions);
      if (!document.hidden) socket.send({ type: "session.update", session: { video: true } });
      break;
    case "stream.state": live.state(ev); break;
    case "memory.stats": live.memory(ev); break;
    case "response.created":
      turns.find((t) => t.itemID === ev.response.input_item_id)?.created(ev.response_id);
      break;
    case "response.output_text.delta": stick(() => byResponse(ev.response_id)?.delta(ev.delta)); break;
    case "response.evidence": {
      const turn = byResponse(ev.response_id);
      if (turn) stick(() => turn.evidence(ev), turn);
      break;
    }
    case "response.done": {
      const turn = byResponse(ev.response_id);
      if (!turn) break;
      stick(() => turn.finish(ev.response), turn);
      $("announce").textContent = `Answer: ${turn.text || ev.response.status}`;
      break;
    }
    case "error": {
      const item = (ev.error.event_id || "").replace(/^(new|ask)_/, "");
      stick(() => turns.find((t) => t.itemID === item)?.lose(ev.error.message));
      break;
    }
  }
}

// stick runs a change and keeps the conversation's end in view if it was. What is added below a turn's answer does not push the
// answer itself out of view.
function stick(change, turn) {
  const s = $("scroll");
  const atEnd = s.scrollHeight - s.scrollTop - s.clientHeight < 80;
  const keep = turn && turn.node === $("log").lastElementChild;
  if (keep && s.dataset.held === turn.itemID) return change();
  change();
  if (!atEnd || (keep && turn.long(s.clientHeight))) return;
  s.scrollTop = s.scrollHeight;
  if (!keep) return;
  const above = s.getBoundingClientRect().top - turn.node.getBoundingClientRect().top;
  if (above > 0) {
    s.scrollTop -= above + 12;
    s.dataset.held = turn.itemID;
  }
}

function suggest(list) {
  $("suggestions").replaceChildren(...list.map((text) => el("button", { type: "button", onclick: () => ask(text) }, text)));
}

let countdown = 0;
function link({ link, wait }) {
  clearInterval(countdown);
  const open = link === "open";
  live.linked(open);
  $("link").dataset.link = link;
  $("link").textContent = { open: "Connected", connecting: "Connecting…", waiting: "Not connected", unauthorized: "Token needed" }[link];
  $("send").disabled = !open;
  if (!open) for (const t of turns) t.lose("The connection was lost before the answer was complete.");
  if (open) $("banner").hidden = true;
  if (link === "waiting") {
    const until = performance.now() + wait;
    const tell = () => { $("banner-text").textContent = `The server does not answer. Trying again in ${duration(until - performance.now())}.`; };
    tell();
    countdown = setInterval(tell, 500);
    $("banner").hidden = false;
  }
  if (link === "unauthorized" && !$("token").open) $("token").showModal();
}

function keys() {
  const box = $("question");
  const fit = () => { box.style.height = "auto"; box.style.height = `${Math.min(box.scrollHeight, 140)}px`; };
  box.addEventListener("input", fit);
  box.addEventListener("keydown", (e) => {
    if (e.isComposing) return;
    if (e.key === "Enter" && !e.shiftKey) {
      e.preventDefault();
      $("ask").requestSubmit();
    } else if (e.key === "ArrowUp" && recall > 0 && (box.value === "" || box.value === asked[recall])) {
      e.preventDefault();
      box.value = asked[--recall];
      fit();
    }
  });
  $("ask").addEventListener("submit", (e) => {
    e.preventDefault();
    if (ask(box.value)) { box.value = ""; fit(); }
    box.focus();
  });
  document.addEventListener("keydown", (e) => {
    if ($("viewer").open || $("token").open) return;
    if (e.key === "Escape") cancel(turns.findLast((t) => !t.done));
    if (e.key === "/" && document.activeElement !== box) { e.preventDefault(); box.focus(); }
  });
}

async function start() {
  let streams;
  for (let wait = 500; ; wait = Math.min(15000, 2 * wait)) {
    try {
      ({ streams } = await (await api("/api/streams")).json());
      break;
    } catch (e) {
      if (e instanceof Unauthorized) {
        link({ link: "unauthorized" });
        return;
      }
      link({ link: "waiting", wait });
      await new Promise((r) => setTimeout(r, wait));
    }
  }
  const wanted = new URLSearchParams(location.search).get("stream");
  const stream = (streams.find((s) => s.stream === wanted) || streams[0]).stream;
  if (streams.length > 1) {
    $("streams").replaceChildren(...streams.map((s) => el("option", { value: s.stream, selected: s.stream === stream }, s.stream)));
    $("streams").closest("label").hidden = false;
    $("streams").addEventListener("change", () => location.assign(`?stream=${encodeURIComponent($("streams").value)}`));
  }
  socket = new Socket(stream);
  socket.addEventListener("link", (e) => link(e.detail));
  socket.addEventListener("event", (e) => handle(e.detail));
  socket.addEventListener("picture", (e) => live.picture(e.detail));
  $("retry").addEventListener("click", () => socket.now());
  document.addEventListener("visibilitychange", () => socket.send({ type: "session.update", session: { video: !document.hidden } }));
  socket.connect();
}

takeTokenFromAddress();
prepareViewer();
keys();
$("token").addEventListener("cancel", (e) => e.preventDefault());
$("token-form").addEventListener("submit", (e) => {
  e.preventDefault();
  token.set($("token-value").value.trim());
  location.reload();
});
if (matchMedia("(min-width: 900px)").matches) $("question").focus();
start();
