// Small lines of what something used lately.

const kept = 60; // readings
const width = 90, height = 24;
const ns = "http://www.w3.org/2000/svg";

// Spark is one such line. Its scale is its own largest reading, and at least
// the floor, so that noise looks like nothing.
export class Spark {
  #readings = [];
  #floor;
  #line = document.createElementNS(ns, "polyline");
  #area = document.createElementNS(ns, "polygon");

  constructor(floor) {
    this.#floor = floor;
    this.element = document.createElementNS(ns, "svg");
    for (const [name, value] of [["viewBox", `0 0 ${width} ${height}`], ["preserveAspectRatio", "none"], ["class", "spark"], ["aria-hidden", "true"]]) {
      this.element.setAttribute(name, value);
    }
    this.element.append(this.#area, this.#line);
  }

  add(reading) {
    this.#readings.push(reading);
    if (this.#readings.length > kept) this.#readings.shift();
    const top = Math.max(this.#floor, ...this.#readings) * 1.1;
    const left = width * (1 - (this.#readings.length - 1) / (kept - 1));
    const points = this.#readings.map((r, i) => `${(left + (i * width) / (kept - 1)).toFixed(1)},${(height - 1 - (r / top) * (height - 2)).toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", `${left.toFixed(1)},${height} ${points.join(" ")} ${width},${height}`);
  }
}
