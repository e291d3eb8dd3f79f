// Text for people. Times come with the zone in which the server's host lives; they are shown in that zone, not the browser's,
// because the answers speak of it.

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
  if (m < 60) return `${m} min ${Math.floor(s % 60)} s`;
  const h = Math.floor(m / 60);
  if (h < 48) return `${h} h ${m % 60} min`;
  return `${Math.floor(h / 24)} days ${h % 24} h`;
}

const numbers = new Intl.NumberFormat("en");
export const count = (n) => numbers.format(n);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const percent = (v) => (v > 0 && v < 0.005 ? "under 1 %" : `${Math.round(100 * v)} %`);

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < units.length - 1);
  return `${n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

// like writes the instant `ms` as a time of the same zone as the server's time `t`.
export function like(t, ms) {
  const zone = /(Z|[+-]\d\d:\d\d)$/.exec(t || "")?.[1] || "Z";
  const minutes = zone === "Z" ? 0 : (zone[0] === "-" ? -1 : 1) * (60 * Number(zone.slice(1, 3)) + Number(zone.slice(4, 6)));
  return new Date(ms + 60000 * minutes).toISOString().replace("Z", zone);
}

// seconds reads a duration as the server writes it ("1h2m3.5s") or as a number of seconds.
export function seconds(d) {
  if (typeof d === "number") return d;
  const unit = { h: 3600, m: 60, s: 1, ms: 1e-3, "µs": 1e-6, us: 1e-6, ns: 1e-9 };
  let s = 0;
  for (const [, n, u] of String(d || "").matchAll(/([\d.]+)(h|ms|m|s|µs|us|ns)/g)) s += Number(n) * unit[u];
  return s;
}
