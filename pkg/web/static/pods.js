// The pods of the node and their apps.

import { byId, el, keyed, put, text } from "./dom.js";
import { bytes, cpu, moment, plural, since } from "./format.js";
import { showLog } from "./log.js";
import { Spark } from "./spark.js";

const running = (p) => p.state === "running";

export function showPods(pods, usage) {
  byId("no-pods").hidden = pods.length > 0;
  pods.sort((a, b) => running(b) - running(a) || Date.parse(b.createdAt) - Date.parse(a.createdAt));
  keyed(byId("pods"), pods.map((p) => ({ ...p, usage })), (p) => p.id, card);
}

const span = (words, title = "") => el("span", { title }, words);

// moods are how the states of pods and apps look.
const moods = { running: "good", created: "plain", preparing: "plain", prepared: "plain", unknown: "bad" };

function state(words, mood) {
  return el("span", { className: `badge ${mood}` }, words);
}

function card(pod) {
  const title = el("h3", { id: `pod-${pod.id.slice(0, 12)}` }, pod.namespace ? el("span", { className: "namespace" }, `${pod.namespace}/`) : null, pod.name);
  const facts = el("p", { className: "facts" });
  const apps = el("div", { className: "apps" });
  const e = el("article", { className: "card pod", "data-id": pod.id, "aria-labelledby": title.id }, el("div", { className: "head" }, title), facts, apps);
  e.update = (pod) => {
    put(facts, state(pod.state, moods[pod.state] ?? "plain"),
      ...pod.ips.map((ip) => el("code", {}, ip)),
      span(`made ${since(pod.createdAt)} ago`, moment(pod.createdAt)),
      span(pod.creator === "cri" ? "by kubelet" : "by hand"),
      pod.apps.length === 0 ? span("no apps") : null);
    keyed(apps, pod.apps.map((a) => ({ ...a, pod, usage: pod.usage[a.id] })), (a) => a.id, appRow);
  };
  return e;
}

function appRow(app) {
  const facts = el("p", { className: "facts" });
  const cpuLine = new Spark(2e7), memoryLine = new Spark(1e6);
  const cpuText = el("span"), memoryText = el("span");
  const meters = el("div", { className: "meters" },
    el("div", { className: "meter" }, cpuLine.element, el("span", { className: "label" }, "CPU"), cpuText),
    el("div", { className: "meter" }, memoryLine.element, el("span", { className: "label" }, "Memory"), memoryText));
  const log = el("button", { type: "button", className: "show-log", "aria-label": `Log of ${app.name}` }, "Log");
  const e = el("div", { className: "app", "data-id": app.id },
    el("div", { className: "what" }, el("h4", {}, app.name), facts), meters, log);
  e.update = (app) => {
    log.hidden = !app.hasLog;
    log.onclick = () => showLog(app);
    put(facts, appState(app), span(app.image), uptime(app), app.restarts > 0 ? span(plural(app.restarts, "restart")) : null);
    meters.hidden = app.state !== "running";
    if (!app.usage) return;
    memoryLine.add(app.usage.memory);
    text(memoryText, bytes(app.usage.memory) + (app.memoryLimit > 0 ? ` / ${bytes(app.memoryLimit)}` : ""));
    if (app.usage.nanoCores === undefined) return;
    cpuLine.add(app.usage.nanoCores);
    text(cpuText, cpu(app.usage.nanoCores));
  };
  return e;
}

function appState(app) {
  if (app.state !== "exited") return state(app.state, moods[app.state] ?? "plain");
  const how = app.reason ? `, ${app.reason}` : "";
  return state(`exited ${app.exitCode}${how}`, app.exitCode === 0 ? "plain" : "bad");
}

function uptime(app) {
  if (app.state === "running") return span(`up ${since(app.startedAt)}`, moment(app.startedAt));
  if (app.finishedAt) return span(`ended ${since(app.finishedAt)} ago`, moment(app.finishedAt));
  return null;
}
