// The query: a picture that is dropped, pasted or chosen, and a box in it.

import { t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const canvas = find("#frame");
const pen = canvas.getContext("2d");

export const query = { file: null, entry: null, box: null, picture: null };

let picture = null;
let start = null;
let shade = null;
let tell = () => {};

// Calls `take` with files dropped on `zone`, marks `shown` while they hover.
export function onDrop(zone, shown, take) {
  const brings = (event) => event.dataTransfer.types.includes("Files");
  zone.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    event.stopPropagation();
    shown.classList.add("over");
  });
  zone.addEventListener("dragleave", () => shown.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    shown.classList.remove("over");
    if (!brings(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
  });
}

// Calls `told` when a box was drawn, or Enter pressed on the picture.
export function onBox(told) {
  tell = told;
}

export async function showQuery(blob, { file = null, entry = null }) {
  picture = blob ? await createImageBitmap(blob) : blank();
  shade = null;
  Object.assign(query, { file, entry, box: null, picture });
  [canvas.width, canvas.height] = [picture.width, picture.height];
  if (entry) canvas.dataset.fixed = "";
  else delete canvas.dataset.fixed;
  canvas.setAttribute("aria-label", t(entry ? "Picture from the gallery that you search with" : "Your picture"));
  find("main").classList.toggle("framed", picture.width > picture.height);
  find("#stage").hidden = find("#remove").hidden = find("#search").disabled = false;
  find("#drop-hint").hidden = true;
  find("#box-hint").hidden = Boolean(entry);
  draw();
}

function blank() {
  const sheet = Object.assign(document.createElement("canvas"), { width: 128, height: 256 });
  const ink = sheet.getContext("2d");
  ink.fillStyle = "#6f7b89";
  ink.fillRect(0, 0, sheet.width, sheet.height);
  Object.assign(ink, { fillStyle: "#fff", font: "18px sans-serif", textAlign: "center" });
  ink.fillText(t("no thumbnail"), 64, 132);
  return sheet;
}

export function forgetQuery() {
  picture = shade = null;
  Object.assign(query, { file: null, entry: null, box: null, picture: null });
  find("main").classList.remove("framed");
  find("#stage").hidden = find("#remove").hidden = find("#box-hint").hidden = find("#whole").hidden = true;
  find("#search").disabled = true;
  find("#drop-hint").hidden = false;
}

// Has `paint` colour the searched part of the picture, until that part changes.
export function shadeQuery(paint) {
  shade = paint;
  if (picture) draw();
}

export function clearBox() {
  query.box = shade = null;
  draw();
}

function draw() {
  pen.drawImage(picture, 0, 0);
  const [left, top, right, bottom] = query.box ?? [0, 0, canvas.width, canvas.height];
  shade?.(pen, [left, top, right - left, bottom - top]);
  find("#whole").hidden = !query.box;
  if (!query.box) return;
  const path = new Path2D();
  path.rect(0, 0, canvas.width, canvas.height);
  path.rect(left, top, right - left, bottom - top);
  pen.fillStyle = "rgb(0 0 0 / .5)";
  pen.fill(path, "evenodd");
  pen.lineWidth = Math.max(2, canvas.width / 150);
  pen.strokeStyle = "#ffd24a";
  pen.strokeRect(left, top, right - left, bottom - top);
}

function at(event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const x = ((event.clientX - left) / width) * canvas.width;
  const y = ((event.clientY - top) / height) * canvas.height;
  return [Math.min(Math.max(x, 0), canvas.width), Math.min(Math.max(y, 0), canvas.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  if ("fixed" in canvas.dataset) return;
  start = at(event);
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!start) return;
  shade = null;
  const [x, y] = at(event);
  const box = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
  query.box = box[2] - box[0] >= 4 && box[3] - box[1] >= 4 ? box.map(Math.round) : null;
  draw();
});
canvas.addEventListener("pointerup", () => {
  const drawn = start && query.box;
  start = null;
  if (drawn) tell();
});
canvas.addEventListener("pointercancel", () => { start = null; });
canvas.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Escape") clearBox();
  if (event.key === "Enter") tell();
  if (!way || "fixed" in canvas.dataset) return;
  event.preventDefault();
  shade = null;
  const { width, height } = canvas;
  const box = query.box ?? [width / 4, height / 4, (width * 3) / 4, (height * 3) / 4];
  const [dx, dy] = [(way[0] * width) / 50, (way[1] * height) / 50];
  const moved = event.shiftKey ? [box[0], box[1], box[2] + dx, box[3] + dy] : [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  const fits = moved[0] >= 0 && moved[1] >= 0 && moved[2] <= width && moved[3] <= height;
  if (fits && moved[2] - moved[0] >= 4 && moved[3] - moved[1] >= 4) query.box = moved;
  else query.box ??= box;
  draw();
});
