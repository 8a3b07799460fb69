// The log of an app, as it is written.

import { follow } from "./api.js";
import { byId, el, text } from "./dom.js";

const tail = 500; // lines to begin with
const most = 5000; // lines that are kept on the page

// showLog opens the log of an app, and follows it until it is closed.
export async function showLog(app) {
  const dialog = byId("log"), lines = byId("log-lines");
  const closed = new AbortController();
  byId("log-title").replaceChildren(`${app.name} `, el("span", {}, `in ${app.pod.name}`));
  lines.replaceChildren();
  byId("log-close").onclick = () => dialog.close();
  dialog.addEventListener("close", () => closed.abort(), { once: true });
  dialog.showModal();
  lines.focus();
  state("live", "good");
  try {
    for await (const batch of follow(`api/apps/${app.id}/log?follow=true&tail=${tail}`, closed.signal)) append(lines, batch);
    state("ended", "plain");
    if (lines.childElementCount === 0) lines.append(el("span", { className: "note" }, "The app has written nothing."));
  } catch (e) {
    if (closed.signal.aborted) return;
    state("broken off", "bad");
    lines.append(el("span", { className: "note" }, e.message));
  }
}

function state(words, mood) {
  text(byId("log-state"), words);
  byId("log-state").className = `badge ${mood}`;
}

// append adds lines, and stays at the end if that is what the reader sees.
function append(lines, batch) {
  const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
  lines.append(...batch.map((l) => el("span", { className: l.stream }, l.partial ? l.text : `${l.text}\n`)));
  while (lines.childElementCount > most) lines.firstElementChild.remove();
  if (atEnd) lines.scrollTop = lines.scrollHeight;
}
