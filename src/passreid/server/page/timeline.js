// Results on a line for each camera, from left to right in time.

import { bandOf, nameOf, timeOf } from "./describe.js";
import { openLightbox } from "./lightbox.js";
import { t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, LEFT, ROW] = [900, 130, 46];

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function drawTimeline(host, entries, again) {
  const timed = entries.filter((entry) => entry.time !== null);
  const cameras = [...new Set(timed.map((entry) => entry.camera ?? ""))].sort();
  if (!timed.length) {
    host.replaceChildren(Object.assign(document.createElement("p"), { textContent: t("None of these pictures has a time.") }));
    return;
  }
  const times = timed.map((entry) => entry.time);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const x = (time) => LEFT + 20 + ((time - first) / (last - first || 1)) * (WIDTH - LEFT - 40);
  const height = cameras.length * ROW + 34;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": t("Results by time and camera") });
  cameras.forEach((camera, row) => {
    const y = row * ROW + ROW / 2;
    svg.append(shape("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y, class: "axis" }));
    svg.append(shape("text", { x: 4, y: y + 5 }, camera ? camera.slice(-15) : t("no camera")));
  });
  // Best matches are drawn last, on top of weaker ones.
  for (const entry of [...timed].reverse()) {
    const y = cameras.indexOf(entry.camera ?? "") * ROW + ROW / 2;
    const dot = shape("circle", { cx: x(entry.time), cy: y, r: 11, tabindex: 0, role: "button", class: "dot" });
    dot.dataset.band = entry.band ?? "";
    const words = [nameOf(entry), entry.camera, timeOf(entry), entry.cosine === undefined ? "" : bandOf(entry)].filter(Boolean).join(", ");
    dot.setAttribute("aria-label", words);
    dot.append(shape("title", {}, words));
    const open = () => openLightbox(entries, entries.indexOf(entry), again);
    dot.addEventListener("click", open);
    dot.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
    svg.append(dot);
  }
  svg.append(shape("text", { x: LEFT, y: height - 8 }, timeOf({ time: first })));
  svg.append(shape("text", { x: WIDTH, y: height - 8, "text-anchor": "end" }, timeOf({ time: last })));
  host.replaceChildren(svg);
}
