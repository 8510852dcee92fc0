// Where the model looks: heat over the query and over the cards, asked for when it is wanted.

import { getJson } from "./api.js";
import { query, shadeQuery } from "./query.js";

const find = (selector) => document.querySelector(selector);
const MOST_KEPT = 300;
const answers = new Map(); // entry -> promise of its attention
const drawn = new WeakMap(); // card -> its entry
let watcher = null;

const token = () => find("#look").value;
const everywhere = () => token() !== "" && find("#look-all").checked;

function ask(body) {
  return getJson("v1/attention", { method: "POST", body });
}

function askEntry(entry) {
  if (!answers.has(entry)) {
    if (answers.size >= MOST_KEPT) answers.clear();
    const body = new FormData();
    body.append("entry", entry);
    const answer = ask(body);
    answer.catch(() => answers.delete(entry));
    answers.set(entry, answer);
  }
  return answers.get(entry);
}

// The attention of an entry or of a file.
export function askAttention(picture) {
  if (!(picture instanceof File)) return askEntry(picture.id);
  const body = new FormData();
  body.append("image", picture);
  return ask(body);
}

// Turns a rectangle grey and dark, so that the only colours are those of the heat.
export function paint(pen, { rows, columns, tokens }, [left, top, width, height], wanted = token()) {
  const grid = tokens.find((each) => each.token === wanted)?.grid;
  if (!grid) return;
  const most = Math.max(...grid.flat());
  const small = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  grid.flat().forEach((share, index) => {
    const heat = Math.sqrt(share / most);
    pixels.data.set([255, 225 - 150 * heat, 40, 190 * heat], 4 * index);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.globalCompositeOperation = "saturation";
  pen.fillStyle = "#888";
  pen.fillRect(left, top, width, height);
  pen.globalCompositeOperation = "source-over";
  pen.fillStyle = "rgb(0 10 40 / .4)";
  pen.fillRect(left, top, width, height);
  pen.drawImage(small, left, top, width, height);
}

async function showCard(item) {
  const entry = drawn.get(item);
  const answer = await askEntry(entry).catch(() => null);
  const [image, canvas] = [item.querySelector("img"), item.querySelector("canvas")];
  if (!answer || !image.naturalWidth || !wanted(item)) return;
  Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight, hidden: false });
  canvas.getContext("2d").drawImage(image, 0, 0);
  paint(canvas.getContext("2d"), answer, [0, 0, canvas.width, canvas.height]);
}

const wanted = (item) => everywhere() || (token() !== "" && item.matches(":hover, :focus-within"));

function update(item) {
  if (wanted(item)) showCard(item);
  else item.querySelector("canvas").hidden = true;
}

export function addLooks(item, entry) {
  drawn.set(item, entry);
  for (const event of ["pointerenter", "pointerleave", "focusin", "focusout"]) {
    item.addEventListener(event, () => setTimeout(() => update(item), 80));
  }
  item.querySelector("img").addEventListener("load", () => update(item));
  watcher?.observe(item);
}

export async function lookAtQuery() {
  const { file, entry, box } = query;
  shadeQuery(null);
  if (!token() || !(file || entry)) return;
  const body = new FormData();
  if (file) body.append("image", file);
  if (file && box) body.append("box", JSON.stringify(box));
  const answer = await (entry ? askEntry(entry) : ask(body)).catch(() => null);
  const same = query.file === file && query.entry === entry && query.box === box;
  if (answer && same) shadeQuery((pen, place) => paint(pen, answer, place));
}

function watch() {
  watcher?.disconnect();
  watcher = everywhere() ? new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) if (isIntersecting) update(target);
  }) : null;
  for (const item of document.querySelectorAll(".card")) {
    item.querySelector("canvas").hidden = true;
    watcher ? watcher.observe(item) : update(item);
  }
}

// Offers the choice if the model can show it at all.
export function setUpLooks({ attention, parts }) {
  if (!attention || find("#look").options.length > 1) return;
  find("#looks").hidden = false;
  const names = Array.from({ length: parts }, (_, index) => `part ${index + 1}`);
  find("#look").append(new Option("CLS"), ...names.map((name) => new Option(name)));
  find("#map-token").append(new Option("CLS"), ...names.map((name) => new Option(name)));
  find("#maps").hidden = false;
  find("#look-all").checked = matchMedia("(hover: none)").matches;
  const choose = () => {
    find("#look-how").hidden = !token();
    watch();
    lookAtQuery();
  };
  find("#look").addEventListener("change", choose);
  find("#look-all").addEventListener("change", watch);
}
