// The page as a whole: signing in, the two views, and looking again.

import { getJSON, Problem, token } from "./api.js";
import { byId, text } from "./dom.js";
import { showImages } from "./images.js";
import { showPods } from "./pods.js";
import { watchDrops } from "./upload.js";

const views = ["images", "pods"];
const every = 2000; // ms between two looks, while somebody sees the page

let timer = 0;
let round = 0; // a look that is overtaken by another one shows nothing

let current = views[0];

// view is what the address asks for; one that asks for something else on the
// page leaves it as it is.
function view() {
  const wanted = location.hash.slice(1);
  if (views.includes(wanted)) current = wanted;
  return current;
}

function show(signedIn) {
  byId("view-sign-in").hidden = signedIn;
  byId("nav").hidden = byId("sign-out").hidden = !signedIn;
  for (const name of views) {
    byId(`view-${name}`).hidden = !signedIn || name !== view();
    const link = byId(`nav-${name}`);
    if (name === view()) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!signedIn) byId("token").focus();
}

function banner(message) {
  byId("banner").hidden = message === "";
  text(byId("banner"), message);
}

function signOut(why = "") {
  token.clear();
  clearTimeout(timer);
  round++;
  text(byId("sign-in-error"), why);
  show(false);
}

// look asks for what is shown, and shows it.
export async function look() {
  clearTimeout(timer);
  if (token.get() === "" || document.hidden) return;
  const mine = ++round;
  try {
    const [images, pods, usage] = await Promise.all([
      getJSON("api/images"), getJSON("api/pods"), view() === "pods" ? getJSON("api/usage") : {},
    ]);
    if (mine !== round) return;
    text(byId("count-images"), String(images.length));
    text(byId("count-pods"), String(pods.length));
    showImages(images);
    showPods(pods, usage);
    banner("");
  } catch (e) {
    if (mine !== round) return;
    if (e instanceof Problem && (e.status === 401 || e.status === 429)) {
      signOut(e.status === 401 ? "That is not the token of this node." : "Too many wrong tokens. Wait a minute.");
      return;
    }
    banner(e instanceof Problem ? `The server says: ${e.message}` : "The server doesn't answer. Trying again …");
  }
  timer = setTimeout(look, every);
}

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  token.set(given);
  history.replaceState(null, "", `#${views[0]}`); // it is nobody's business in the history
}

function start() {
  takeToken();
  const signedIn = () => token.get() !== "";
  byId("sign-in").onsubmit = (e) => {
    e.preventDefault();
    token.set(byId("token").value);
    byId("token").value = "";
    text(byId("sign-in-error"), "");
    show(true);
    look();
  };
  byId("sign-out").onclick = () => signOut();
  addEventListener("hashchange", () => {
    takeToken();
    show(signedIn());
    look();
  });
  document.addEventListener("visibilitychange", look);
  document.addEventListener("stagelet-changed", look);
  watchDrops();
  show(signedIn());
  look();
}

start();
