// The server's API (docs/web.md). The token stays in this tab.

const storage = "stagelet-token";

export const token = {
  get: () => sessionStorage.getItem(storage) ?? "",
  set: (value) => sessionStorage.setItem(storage, value.trim()),
  clear: () => sessionStorage.removeItem(storage),
};

// Problem is an answer that refuses.
export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const authorization = () => `Bearer ${token.get()}`;

// call asks the API; what isn't a good answer is thrown.
export async function call(method, path, signal) {
  const response = await fetch(path, {
    method, signal, headers: { Authorization: authorization() }, cache: "no-store", credentials: "omit",
  });
  if (response.ok) return response;
  let said = response.statusText;
  try {
    said = (await response.json()).error;
  } catch { /* it had nothing to say */ }
  throw new Problem(response.status, said);
}

export const getJSON = async (path) => (await call("GET", path)).json();

// LineReader cuts what comes into JSON documents, one on each line.
export class LineReader {
  #rest = "";

  push(chunk) {
    const all = (this.#rest + chunk).split("\n");
    this.#rest = all.pop();
    return all.filter((line) => line !== "").map((line) => JSON.parse(line));
  }
}

// follow reads an answer line by line, until it ends.
export async function* follow(path, signal) {
  const response = await call("GET", path, signal);
  const lines = new LineReader();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield lines.push(decoder.decode(value, { stream: true }));
  }
}
