// How figures are told to people.

// bytes in decimal units, as the commands print them.
export function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${i === 0 ? n : n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

// since says how long ago an instant was, in its largest two units.
export function since(instant, now = Date.now()) {
  let s = Math.max(0, Math.round((now - Date.parse(instant)) / 1000));
  if (Number.isNaN(s)) return "";
  const parts = [];
  for (const [unit, seconds] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const n = Math.floor(s / seconds);
    s -= n * seconds;
    if (n > 0 || parts.length > 0) parts.push([n, unit]);
  }
  if (parts.length === 0) return "0 s";
  return parts.slice(0, parts[0][0] > 9 ? 1 : 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

// moment is an instant, as the reader's clock shows it.
export const moment = (instant) => new Date(instant).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

// cpu says how much of a processor is used.
export const cpu = (nanoCores) => `${(nanoCores / 1e7).toFixed(nanoCores < 1e8 ? 1 : 0)} %`;

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

// short is the beginning of a digest or an id, enough to recognise it.
export const short = (id) => id.replace(/^sha256:/, "").slice(0, 12);
