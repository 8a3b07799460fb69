// Uploads: one after the other, each with its progress and its story.

import { authorization, LineReader } from "./api.js";
import { badge } from "./images.js";
import { byId, copyable, el, text } from "./dom.js";
import { bytes } from "./format.js";

const maxSignature = 16 << 10;

let last = Promise.resolve(); // the upload that the next one waits for

export function watchDrops() {
  const zone = byId("drop"), input = byId("file");
  input.onchange = () => {
    begin([...input.files]);
    input.value = ""; // the same file may be chosen again
  };
  let depth = 0; // of elements that the pointer has entered
  const over = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", (e) => { e.preventDefault(); over(1); });
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (e) => e.preventDefault());
  addEventListener("drop", (e) => {
    e.preventDefault();
    over(0);
    if (!byId("view-images").hidden) begin([...e.dataTransfer.files]);
  });
}

// begin uploads files. What is called like another one, with .asc behind, is
// that one's signature.
function begin(files) {
  const isSignature = (f) => f.name.endsWith(".asc") && f.size <= maxSignature;
  const signatures = new Map(files.filter(isSignature).map((f) => [f.name, f]));
  const archives = files.filter((f) => !isSignature(f));
  for (const file of archives) {
    const job = new Upload(file, signatures.get(`${file.name}.asc`));
    byId("uploads").prepend(job.element);
    job.enqueue();
  }
  if (archives.length === 0 && files.length > 0) say("A signature alone is nothing: choose it together with its archive.");
}

// say tells those who don't see the page.
function say(words) {
  text(byId("said"), words);
}

class Upload {
  #file;
  #signature;
  #name = "";
  #request = null;
  #bar = el("progress", { max: 100, value: 0 });
  #status = el("p", { className: "status" });
  #story = el("ol", { className: "story" });
  #help = el("div", { className: "help" });
  #stop = el("button", { type: "button" }, "Cancel");

  constructor(file, signature) {
    this.#file = file;
    this.#signature = signature;
    const title = el("h3", {}, file.name);
    this.#bar.setAttribute("aria-label", `Progress of ${file.name}`);
    this.element = el("article", { className: "card upload", "aria-label": `Upload of ${file.name}`, "data-state": "waiting" },
      el("div", { className: "head" }, title, this.#stop), this.#bar, this.#status, this.#story, this.#help);
  }

  // enqueue waits for its turn.
  enqueue() {
    this.#state("waiting");
    this.#bar.hidden = false;
    this.#bar.value = 0;
    this.#story.replaceChildren();
    this.#help.replaceChildren();
    text(this.#status, "Waiting for the upload before it");
    this.#offer("Cancel", () => { this.#state("given up"); this.element.remove(); });
    last = last.then(() => (this.element.dataset.state === "waiting" ? this.#send() : undefined));
  }

  #state(words) {
    this.element.dataset.state = words;
  }

  #offer(words, work) {
    text(this.#stop, words);
    this.#stop.onclick = work;
  }

  async #send() {
    this.#state("sending");
    text(this.#status, "Sending …");
    const query = this.#name === "" ? "" : `?name=${encodeURIComponent(this.#name)}`;
    const signature = this.#signature ? base64(await this.#signature.arrayBuffer()) : "";
    const request = new XMLHttpRequest(); // fetch says nothing of how much was sent
    this.#request = request;
    const lines = new LineReader();
    let seen = 0, ended = false;
    const read = () => {
      const fresh = request.responseText.slice(seen);
      seen = request.responseText.length;
      for (const chapter of lines.push(fresh)) ended = this.#tell(chapter) || ended;
    };
    request.open("POST", `api/images${query}`);
    request.setRequestHeader("Authorization", authorization());
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (signature !== "") request.setRequestHeader("Stagelet-Signature", signature);
    request.upload.onprogress = (e) => this.#sent(e.loaded, e.total);
    request.onprogress = () => { if (isStory(request)) read(); };
    this.#offer("Cancel", () => request.abort());
    await new Promise((done) => {
      request.onloadend = done;
      request.send(this.#file);
    });
    if (isStory(request)) read();
    if (!ended) this.#failed(request);
  }

  #sent(loaded, total) {
    this.#bar.value = total > 0 ? (100 * loaded) / total : 0;
    text(this.#status, loaded < total ? `${bytes(loaded)} of ${bytes(total)} sent` : "All is sent. Checking …");
    if (loaded === total) this.#bar.removeAttribute("value"); // for how long, nobody knows
  }

  // tell shows one line of the story, and says whether it is the last one.
  #tell(chapter) {
    switch (chapter.step) {
      case "done":
        this.#end("done", chapter.text);
        this.#line("done", "ok", chapter.text);
        if (chapter.images?.length) this.#status.append(" ", badge(chapter.images[0].verdict));
        document.dispatchEvent(new Event("stagelet-changed"));
        return true;
      case "refused":
        this.#end("refused", "Refused. Nothing of it was kept.");
        this.#line("refused", "no", chapter.text);
        this.#advise(chapter);
        return true;
      case "layer": {
        const { index, count, state, done } = chapter.layer;
        this.#line(`layer ${chapter.image ?? ""} ${index}`, state === "checked" ? "ok" : "busy",
          state === "checking" ? `layer ${index + 1} of ${count}: ${bytes(done)} checked` : chapter.text, chapter.image, index);
        return false;
      }
      default:
        this.#line(`${chapter.step} ${chapter.image ?? ""}`, "ok", chapter.text, chapter.image);
        return false;
    }
  }

  // line adds a line to the story, or replaces the one of the same key. Layers
  // come as they please, and stand in their order.
  #line(key, mark, words, of = "", place = -1) {
    const lines = [...this.#story.children];
    let li = lines.find((e) => e.dataset.key === key);
    if (!li) {
      li = el("li", { "data-key": key, "data-step": key.split(" ")[0], "data-of": of, "data-place": place });
      const above = lines.find((e) => place >= 0 && e.dataset.of === of && Number(e.dataset.place) > place);
      this.#story.insertBefore(li, above ?? null);
    }
    li.className = mark;
    text(li, of ? `${of}: ${words}` : words);
  }

  // advise offers what would help a refused upload.
  #advise(chapter) {
    switch (chapter.needs) {
      case "name":
        this.#help.append(this.#nameForm());
        return;
      case "trust":
        this.#help.append(
          el("p", {}, "An administrator of this node can trust its signer, or accept what nobody signed; then try again."),
          ...(chapter.next ?? []).map((command) => el("p", {}, copyable(command))),
          el("details", {}, el("summary", {}, "Give it another name"), this.#nameForm()));
        break;
      case "room":
        this.#help.append(el("p", {}, "Remove images that nothing uses, then try again."));
        break;
      default:
        return;
    }
    this.#again();
  }

  #again() {
    this.#help.append(el("button", { type: "button", className: "again", onclick: () => this.enqueue() }, "Try again"));
  }

  #nameForm() {
    const input = el("input", { type: "text", name: "name", required: true, placeholder: "registry.example.com/team/app:v1", autocomplete: "off", spellcheck: false, value: this.#name });
    const form = el("form", { className: "name" }, el("label", {}, "Call it ", input), el("button", { type: "submit", className: "primary" }, "Upload with this name"));
    form.onsubmit = (e) => {
      e.preventDefault();
      this.#name = input.value.trim();
      this.enqueue();
    };
    return form;
  }

  // failed is for an upload without a story's end.
  #failed(request) {
    let words = "The connection broke off. Nothing of it was kept.";
    if (request.status !== 0 && !isStory(request)) {
      try {
        words = JSON.parse(request.responseText).error;
      } catch {
        words = request.statusText;
      }
    } else if (this.#request === request && request.readyState === XMLHttpRequest.UNSENT) {
      words = "Canceled. Nothing of it was kept.";
    }
    this.#end("refused", words);
    if (request.status === 400 && this.#name !== "") this.#help.append(this.#nameForm());
    else this.#again();
  }

  #end(state, words) {
    this.#state(state);
    this.#bar.hidden = true;
    text(this.#status, words);
    say(`${this.#file.name}: ${words}`);
    this.#offer("Close", () => this.element.remove());
  }
}

const isStory = (request) => (request.getResponseHeader("Content-Type") ?? "").startsWith("application/x-ndjson");

function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}
