// The enlarged evidence picture.
const $ = (id) => document.getElementById(id);
let entries = [], at = 0;

// show opens entry n of a list of { url, caption }; entries that are not loaded yet are skipped by the arrows.
export function show(list, n) {
  entries = list;
  at = n;
  draw();
  $("viewer").showModal();
}

function draw() {
  const e = entries[at];
  $("viewer-image").src = e.url || e.item.thumb;
  $("viewer-image").alt = e.caption.long;
  $("viewer-text").textContent = e.caption.long;
  $("viewer-back").disabled = step(-1) === at;
  $("viewer-on").disabled = step(1) === at;
}

function step(by) {
  let n = at + by;
  while (n >= 0 && n < entries.length && !entries[n].url) n += by;
  return n >= 0 && n < entries.length ? n : at;
}

function go(by) {
  at = step(by);
  draw();
}

export function prepareViewer() {
  $("viewer-back").addEventListener("click", () => go(-1));
  $("viewer-on").addEventListener("click", () => go(1));
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("click", (e) => { if (e.target === $("viewer")) $("viewer").close(); });
  $("viewer").addEventListener("keydown", (e) => {
    if (e.key === "ArrowLeft") go(-1);
    if (e.key === "ArrowRight") go(1);
  });
}
