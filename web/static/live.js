// The live picture, its state and the memory's numbers.
import { bytes, clock, count, duration } from "./format.js";

const $ = (id) => document.getElementById(id);
const notes = {
  connecting: "Connecting to the camera…",
  stalled: "The camera is connected but sends no pictures.",
  offline: "The camera is offline. Trying again until it is back.",
  ended: "The video has ended. Its memory can still be asked.",
};

export class Live {
  #context = $("picture").getContext("2d", { alpha: false });
  #next = null; // the newest picture not drawn yet
  #drawing = false;
  #shown = false; // a picture was drawn
  #state = "connecting";
  #lag = null;
  #heard = 0; // when #lag was true
  #last = "";
  #linked = false;

  constructor() {
    setInterval(() => this.#age(), 250);
  }

  // picture takes a binary message: 16 bytes of header, then a JPEG.
  async picture(buffer) {
    if (buffer.byteLength <= 16) return;
    this.#next = buffer;
    if (this.#drawing) return; // the loop below takes the newest when it is done
    this.#drawing = true;
    while (this.#next) {
      const jpeg = new Blob([new Uint8Array(this.#next, 16)], { type: "image/jpeg" });
      this.#next = null;
      try {
        const bitmap = await createImageBitmap(jpeg);
        const canvas = this.#context.canvas;
        if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
          canvas.width = bitmap.width;
          canvas.height = bitmap.height;
        }
        this.#context.drawImage(bitmap, 0, 0);
        bitmap.close();
        this.#shown = true;
        canvas.dataset.pictures = 1 + Number(canvas.dataset.pictures || 0);
        this.#note();
      } catch { /* a picture that cannot be read is skipped; the next one comes soon */ }
    }
    this.#drawing = false;
  }

  state(ev) {
    this.#state = ev.state;
    this.#badge();
    $("screen").dataset.state = ev.state;
    $("state").title = ev.since ? `${ev.state} since ${clock(ev.since)}` : "";
    $("source").textContent = ev.source || "";
    $("trouble").hidden = !ev.error;
    $("trouble").textContent = ev.error ? `${clock(ev.since)}  ${ev.error}` : "";
    $("picture").setAttribute("aria-label", `Live picture of ${ev.stream}, ${ev.state}`);
    document.title = `${ev.stream}: ${ev.state} · Afterimage`;
    this.#seen(ev);
    this.#note();
  }

  memory(ev) {
    const m = ev.memory;
    $("m-span").textContent = m.oldest && m.newest ? duration(Date.parse(m.newest) - Date.parse(m.oldest)) : "nothing yet";
    $("m-span").title = m.oldest ? `since ${m.oldest.slice(0, 10)} ${clock(m.oldest)}` : "";
    $("m-entries").textContent = count(m.entries);
    $("m-tokens").textContent = count(m.tokens);
    $("m-bytes").textContent = bytes(m.bytes);
    $("m-strategy").textContent = m.strategy || "–";
    this.#seen(ev);
  }

  // linked says whether the connection to the server stands; without it nothing here is known to be true any more.
  linked(yes) {
    this.#linked = yes;
    $("screen").classList.toggle("unlinked", !yes);
    this.#badge();
    this.#age();
  }

  // A badge must not go on saying "live" when nobody knows.
  #badge() {
    $("state").textContent = this.#linked ? this.#state : "unknown";
    $("state").dataset.state = this.#linked ? this.#state : "unknown";
  }

  #seen(ev) {
    $("m-frames").textContent = count(ev.frames) + (ev.dropped ? ` (${count(ev.dropped)} dropped)` : "");
    this.#last = ev.last_frame || "";
    this.#lag = ev.lag_ms;
    this.#heard = performance.now();
    $("clock").textContent = clock(this.#last);
    $("clock").dateTime = this.#last;
    this.#age();
  }

  #age() {
    let text = "";
    if (this.#lag !== null && this.#state === "live") {
      // The server tells every second; counting on in between would only flicker about the time between two frames.
      text = this.#lag < 1000 ? "under 1 s behind" : `${duration(this.#lag)} behind`;
    } else if (this.#lag !== null && this.#state !== "ended") {
      text = `${duration(this.#lag + performance.now() - this.#heard)} ago`;
    }
    if (!this.#linked && this.#last) text = "not connected";
    if ($("lag").textContent !== text) $("lag").textContent = text;
  }

  #note() {
    const note = notes[this.#state] || (this.#shown ? "" : "Waiting for the first picture…");
    $("screen-note").textContent = note;
    $("screen-note").hidden = !note;
  }
}
