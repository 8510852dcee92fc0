// The grid: a card for each entry, which of them are selected, and the line below which hits are doubtful.

import { call, showThumbnail } from "./api.js";
import { bandOf, cosineOf, nameOf, strangersOf, timeOf } from "./describe.js";
import { openLightbox } from "./lightbox.js";
import { addLooks } from "./looks.js";
import { count, t } from "./words.js";

const find = (selector) => document.querySelector(selector);

export const selected = new Map(); // id -> entry
export const shown = []; // entries in the order of the grid

// `cut` is the cosine of the cut-off line; null draws none.
export function showCards(entries, { fresh, again, cut = null, fpir = null, onlyAbove = false }) {
  if (fresh) {
    find("#grid").replaceChildren();
    selected.clear();
    shown.length = 0;
  }
  const above = cut === null ? entries.length : entries.filter((entry) => entry.cosine >= cut).length;
  const drawn = onlyAbove ? entries.slice(0, above) : entries;
  const items = drawn.map((entry, index) => card(entry, again, index >= above));
  if (cut !== null) items.splice(above, 0, cutLine(above, entries.length - above, fpir));
  shown.push(...drawn);
  find("#grid").append(...items);
  countSelected();
}

function cutLine(above, below, fpir) {
  const line = document.createElement("li");
  line.className = "cut";
  const words = above
    ? t("Above the line: {n}. For somebody who is not in the gallery, at most 1 search in {s} shows anyone above it.", { n: above, s: Math.max(1, Math.floor(1 / fpir + 0.001)) })
    : t("Nobody is above the line: the person is probably not in the gallery.");
  line.textContent = below ? `${words} ${t("Below it, expect strangers.")}` : words;
  return line;
}

// Only the beginning is cut off where a name is too long: file names differ at the end.
export function writeName(element, name) {
  const split = Math.max(name.length - 12, 0);
  const [head, tail] = [document.createElement("span"), document.createElement("span")];
  [head.textContent, tail.textContent] = [name.slice(0, split), name.slice(split)];
  element.replaceChildren(head, tail);
}

function card(entry, again, doubtful) {
  const item = find("#card").content.cloneNode(true).firstElementChild;
  const name = nameOf(entry);
  const write = (part, text) => {
    item.querySelector(part).textContent = text;
    item.querySelector(part).hidden = !text;
  };
  const image = item.querySelector("img");
  image.alt = t("Picture of {name}", { name });
  addLooks(item, entry.id);
  showThumbnail(image, entry.thumbnail);
  const scored = entry.cosine !== undefined;
  write(".score", scored ? bandOf(entry) : "");
  write(".cosine", scored && entry.band ? `${cosineOf(entry)} · ${strangersOf(entry)}` : "");
  writeName(item.querySelector(".name"), name);
  item.querySelector(".name").title = entry.person ? `${entry.person} (${entry.source})` : entry.source;
  write(".where", entry.camera ? t("camera {name}", { name: entry.camera }) : "");
  write(".when", timeOf(entry));
  item.classList.toggle("doubtful", doubtful);
  if (scored && entry.band) item.dataset.band = entry.band;
  const box = item.querySelector("input");
  box.setAttribute("aria-label", t("Select {name}", { name }));
  box.addEventListener("change", () => {
    box.checked ? selected.set(entry.id, entry) : selected.delete(entry.id);
    countSelected();
  });
  const button = item.querySelector(".again");
  const search = () => again(entry.id, async () => (await call(entry.thumbnail).catch(none))?.blob());
  button.setAttribute("aria-label", t("Search with this: {name}", { name }));
  button.addEventListener("click", search);
  const open = item.querySelector(".open");
  open.setAttribute("aria-label", t("Look closer: {name}", { name }));
  open.addEventListener("click", () => openLightbox(shown, shown.indexOf(entry), again));
  return item;
}

// An entry without a thumbnail can be searched with all the same.
export function none(error) {
  if (error.status !== 404) throw error;
  return null;
}

function countSelected() {
  const many = selected.size;
  find("#forget").hidden = find("#label").hidden = !many;
  find("#compare-selected").hidden = many !== 2;
  find("#label").textContent = t("Label {n} selected", { n: many });
  find("#forget").textContent = t("Forget {n} selected", { n: many });
  find("#export-count").textContent = count(many || shown.length, "1 picture", "{n} pictures");
}
