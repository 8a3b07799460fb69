// The images of the node.

import { call } from "./api.js";
import { confirm } from "./confirm.js";
import { byId, copyable, el, keyed, put, text } from "./dom.js";
import { bytes, moment, plural, short, since } from "./format.js";

const newest = (a, b) => Date.parse(b.importedAt) - Date.parse(a.importedAt) || (a.id < b.id ? -1 : 1);

export function showImages(images) {
  byId("no-images").hidden = images.length > 0;
  keyed(byId("images"), images.sort(newest), (i) => i.id, card);
}

const names = (image) => (image.tags.length > 0 ? image.tags.map(familiar).join(", ") : `unnamed image ${short(image.id)}`);

const familiar = (name) => name.replace(/^docker\.io\/(library\/)?/, "");

// verdicts say how an image came to be trusted, and how good that is.
const verdicts = {
  "openpgp": ["Signed", "good"],
  "sigstore-key": ["Signed", "good"],
  "sigstore-identity": ["Signed", "good"],
  "insecure": ["Unsigned, accepted by a rule", "warn"],
  "local-import": ["Imported by an administrator", "plain"],
};

// badge says a verdict.
export function badge(verdict) {
  const [words, mood] = verdicts[verdict.kind] ?? [verdict.kind, "plain"];
  return el("span", { className: `badge ${mood}`, title: verdict.rule }, words);
}

function card(image) {
  const title = el("h3", { id: `image-${short(image.id)}` });
  const facts = el("p", { className: "facts" });
  const users = el("p", { className: "users" });
  const about = el("dl");
  const layers = el("ol", { className: "layers" });
  const summary = el("summary");
  const e = el("article", { className: "card image", "data-id": image.id, "aria-labelledby": title.id },
    el("div", { className: "head" }, title, el("button", { type: "button", className: "remove", onclick: () => remove(e.image) }, "Remove")),
    facts, users, el("details", {}, summary, about, el("h4", {}, "Layers, lowest first"), layers));
  e.update = (image) => {
    e.image = image;
    nameChips(title, image);
    e.querySelector(".remove").setAttribute("aria-label", `Remove ${names(image)}`);
    put(facts, badge(image.verdict), span(bytes(image.size)), span(plural(image.layers.length, "layer")), span(image.platform),
      span(`taken in ${since(image.importedAt)} ago`, moment(image.importedAt)), image.pinned ? span("pinned") : null);
    put(users, image.usedBy.length > 0 ? `Used by ${usersOf(image)}` : "");
    text(summary, `Digests, layers and verdict of ${short(image.id)}`);
    put(about, ...definitions(image));
    put(layers, ...image.layers.map(layer));
  };
  return e;
}

const span = (words, title = "") => el("span", { title }, words);

// nameChips shows the names, each with a button that takes it away where
// another one is left.
function nameChips(title, image) {
  const many = image.tags.length > 1;
  const key = image.tags.join(" ");
  if (title.dataset.names === key) return;
  title.dataset.names = key;
  if (image.tags.length === 0) {
    title.replaceChildren(el("span", { className: "unnamed" }, "unnamed "), el("code", {}, short(image.id)));
    return;
  }
  title.replaceChildren(...image.tags.map((tag) => el("span", { className: "tag" }, familiar(tag),
    many ? el("button", { type: "button", className: "untag", title: "Take this name away", "aria-label": `Take the name ${familiar(tag)} away`, onclick: () => untag(tag) }, "×") : null)));
}

function usersOf(image) {
  const pods = Object.entries(Object.groupBy(image.usedBy, (u) => u.pod));
  const all = pods.map(([pod, users]) => `${[...new Set(users.map((u) => u.app))].join(" and ")} in ${pod}`);
  return all.length > 4 ? `${all.slice(0, 3).join(", ")} and ${plural(all.length - 3, "more pod")}` : all.join(", ");
}

function definitions(image) {
  const v = image.verdict;
  const rows = image.tags.map((tag) => ["Pull it as", copyable(pullName(tag))]);
  rows.push(["Image id", code(image.id)], ["Manifest", code(image.manifest)]);
  if (image.appcID) rows.push(["ACI", code(image.appcID)]);
  if (image.createdAt) rows.push(["Built", moment(image.createdAt)]);
  rows.push(["Accepted because", v.rule], ["Accepted at", moment(v.time)]);
  if (v.reference) rows.push(["Accepted as", code(v.reference)]);
  for (const s of v.signers ?? []) rows.push(["Signer", code(s.key || `${s.subject} (${s.issuer})`)]);
  for (const e of image.earlier) rows.push(["Earlier", `${e.rule}, ${moment(e.time)}`]);
  if (image.insecure.length > 0) rows.push(["Safeguards off", image.insecure.join(", ")]);
  for (const d of image.repoDigests) rows.push(["Known as", code(d)]);
  return rows.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]);
}

// pullName is what docker and crane know an image of this node by
// (docs/registries.md).
const pullName = (tag) => `${location.host}/${tag.replace(/^([^/]+):(\d+)\//, "$1_$2/")}`;

const code = (value) => el("code", {}, value);

function layer(l) {
  return el("li", {},
    el("span", { className: "size" }, bytes(l.size)),
    el("span", { className: "label" }, "diff id "), code(l.diffID),
    el("span", { className: "label" }, "as distributed "), code(l.blobDigest), el("span", { className: "label" }, ` ${bytes(l.blobSize)}`));
}

function remove(image) {
  const explanation = [el("p", {}, "It is taken out of the list with all its names. Pods can't be started from it any more.")];
  if (image.usedBy.length > 0) {
    explanation.push(el("p", { className: "warn" },
      `Used by ${usersOf(image)}. Apps that run go on; what they need of it stays on the disk until they are gone.`));
  }
  confirm({
    title: `Remove ${names(image)}?`, explanation, yes: "Remove image",
    work: () => call("DELETE", `api/images/${encodeURIComponent(image.id)}`),
  });
}

function untag(tag) {
  confirm({
    title: `Take the name ${familiar(tag)} away?`, explanation: [el("p", {}, "The image stays, with its other names.")], yes: "Take it away",
    work: () => call("DELETE", `api/tags?name=${encodeURIComponent(tag)}`),
  });
}
