// What the other modules build elements with. Text only ever becomes text:
// nothing here, or elsewhere, makes markup of data.

export const byId = (id) => document.getElementById(id);

// el makes an element: properties by their names in the DOM, "data-…" and
// "aria-…" attributes, and listeners as onclick and the like.
export function el(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) e.setAttribute(name, value);
    else e[name] = value;
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

// put replaces what is in an element, if that would look different; what has
// the focus or is selected stays as it is otherwise.
export function put(e, ...children) {
  const probe = document.createElement(e.tagName);
  probe.append(...children.filter((c) => c !== null && c !== undefined));
  if (probe.innerHTML !== e.innerHTML) e.replaceChildren(...probe.childNodes);
}

// text sets an element's text, if it is another one.
export function text(e, value) {
  if (e.textContent !== value) e.textContent = value;
}

// keyed makes the children of list those of items: it keeps the element of an
// item that was there before, by its key, and has it updated.
export function keyed(list, items, key, create) {
  const before = new Map([...list.children].map((e) => [e.dataset.key, e]));
  let at = list.firstElementChild;
  for (const item of items) {
    let e = before.get(key(item));
    before.delete(key(item));
    if (!e) {
      e = create(item);
      e.dataset.key = key(item);
    }
    if (e === at) at = at.nextElementSibling;
    else list.insertBefore(e, at);
    e.update?.(item);
  }
  for (const e of before.values()) e.remove();
}

// copyable is a line of code with a button that copies it.
export function copyable(value) {
  const button = el("button", { type: "button", className: "copy", title: "Copy", "aria-label": `Copy ${value}` }, "Copy");
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(value);
      button.textContent = "Copied";
    } catch { // without TLS a browser may refuse
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  return el("span", { className: "copyable" }, el("code", {}, value), button);
}
