// The grid: a card for each entry, and which of them are selected.

import { call, showThumbnail } from "./api.js";
import { addLooks } from "./looks.js";

const find = (selector) => document.querySelector(selector);
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const selected = new Map(); // id -> entry

const rounded = (value) => (value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));
const strangers = ({ expected_strangers: n, is_bound: bound }) =>
  `${n < 0.001 ? "< 0.001" : `${bound ? "< " : ""}${rounded(n)}`} strangers expected`;

export function showCards(entries, { fresh, again }) {
  if (fresh) {
    find("#grid").replaceChildren();
    selected.clear();
  }
  find("#grid").append(...entries.map((entry) => card(entry, again)));
  countSelected();
}

function card(entry, again) {
  const item = find("#card").content.cloneNode(true).firstElementChild;
  const name = entry.person ?? entry.source;
  const write = (part, text) => {
    item.querySelector(part).textContent = text;
    item.querySelector(part).hidden = !text;
  };
  const image = item.querySelector("img");
  image.alt = `Picture of ${name}`;
  addLooks(item, entry.id);
  showThumbnail(image, entry.thumbnail);
  const scored = entry.cosine !== undefined;
  const known = scored && entry.band !== null;
  const cosine = scored ? `cosine ${entry.cosine.toFixed(3)}` : "";
  write(".score", known ? `${entry.band} match` : cosine);
  write(".cosine", known ? `${cosine} · ${strangers(entry)}` : "");
  write(".name", name);
  item.querySelector(".name").title = entry.person ? `${entry.person} (${entry.source})` : entry.source;
  write(".where", entry.camera ? `camera ${entry.camera}` : "");
  write(".when", entry.time === null ? "" : clock.format(entry.time * 1000));
  item.classList.toggle("same", known && entry.band === "strong");
  const box = item.querySelector("input");
  box.setAttribute("aria-label", `Select ${name}`);
  box.addEventListener("change", () => {
    box.checked ? selected.set(entry.id, entry) : selected.delete(entry.id);
    countSelected();
  });
  const button = item.querySelector(".again");
  button.setAttribute("aria-label", `Search with this: ${name}`);
  button.addEventListener("click", () => again(entry.id, async () => (await call(entry.thumbnail).catch(none))?.blob()));
  return item;
}

// An entry without a thumbnail can be searched with all the same.
function none(error) {
  if (error.status !== 404) throw error;
  return null;
}

function countSelected() {
  find("#forget").hidden = find("#label").hidden = !selected.size;
  find("#label").textContent = `Label ${selected.size} selected`;
  find("#forget").textContent = `Forget ${selected.size} selected`;
}
