// Times arrive as RFC 3339 in the camera's own zone. They are shown in that zone, not the browser's, because the answers speak of it.

export const clock = (t) => (t ? t.slice(11, 19) : "");

const day = (t) => t.slice(0, 10);

// moment shows a time, with its day when that differs from the day of `beside`.
export function moment(t, beside) {
  if (!t) return "";
  return beside && day(t) !== day(beside) ? `${day(t)} ${clock(t)}` : clock(t);
}

export function span(from, to, beside) {
  const a = moment(from, beside), b = moment(to, from);
  return a === b ? a : `${a} – ${b}`;
}

export function duration(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return `${m} min ${Math.round(s % 60)} s`;
  const h = Math.floor(m / 60);
  if (h < 48) return `${h} h ${m % 60} min`;
  return `${Math.floor(h / 24)} days ${h % 24} h`;
}

export const count = (n) => new Intl.NumberFormat("en").format(n);

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < units.length - 1);
  return `${n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

export function el(name, props = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(props)) {
    if (k === "class") e.className = v;
    else if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k.includes("-") || k === "role" || k === "datetime") e.setAttribute(k, v);
    else e[k] = v;
  }
  e.append(...children);
  return e;
}
