// How figures are told to people.

// bytes in decimal units, as the commands print them.
export function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${i === 0 ? n : n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

// since says how long ago an instant was, as precisely as people do.
export function since(instant, now = Date.now()) {
  const s = Math.max(0, Math.round((now - Date.parse(instant)) / 1000));
  if (Number.isNaN(s)) return "";
  const whole = (seconds) => Math.floor(s / seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${whole(60)} min`;
  if (s < 86400) return `${whole(3600)} h ${whole(60) % 60} min`;
  return s < 10 * 86400 ? `${whole(86400)} d ${whole(3600) % 24} h` : `${whole(86400)} d`;
}

// moment is an instant, as the reader's clock shows it.
export const moment = (instant) => new Date(instant).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

// cpu says how much of a processor is used.
export const cpu = (nanoCores) => `${(nanoCores / 1e7).toFixed(nanoCores < 1e8 ? 1 : 0)} %`;

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

// short is the beginning of a digest or an id, enough to recognise it.
export const short = (id) => id.replace(/^sha256:/, "").slice(0, 12);
