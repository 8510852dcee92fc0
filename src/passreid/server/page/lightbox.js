// The lightbox: one entry large beside the query, with its details; arrow keys step through the results.

import { call, showThumbnail } from "./api.js";
import { fillDetails, nameOf } from "./describe.js";
import { excludeCamera } from "./filters.js";
import { query } from "./query.js";
import { t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const dialog = find("#lightbox");
let entries = [];
let at = 0;
let search = () => {};

export function openLightbox(list, index, again) {
  [entries, at, search] = [list, index, again];
  show();
  dialog.showModal();
}

function show() {
  const entry = entries[at];
  find("#lightbox-title").textContent = nameOf(entry);
  const image = find("#lightbox-image");
  image.removeAttribute("src");
  image.alt = t("Picture of {name}", { name: nameOf(entry) });
  showThumbnail(image, entry.thumbnail);
  fillDetails(find("#lightbox-details"), entry);
  find("#lightbox-place").textContent = t("{i} of {n}", { i: at + 1, n: entries.length });
  find("#previous").disabled = at === 0;
  find("#next").disabled = at === entries.length - 1;
  find("#not-camera").hidden = !entry.camera;
  find("#not-camera").textContent = t("Not camera {name}", { name: entry.camera });
  const searched = Boolean(query.file || query.entry);
  find("#lightbox-query").hidden = !searched || entry.cosine === undefined;
  if (searched) copyQuery();
}

// Without the mask and heat of the small view: the part that was searched, as it is.
function copyQuery() {
  const canvas = find("#lightbox-canvas");
  const [left, top, right, bottom] = query.box ?? [0, 0, query.picture.width, query.picture.height];
  [canvas.width, canvas.height] = [right - left, bottom - top];
  canvas.getContext("2d").drawImage(query.picture, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height);
}

function step(by) {
  if (!entries[at + by]) return;
  at += by;
  show();
}

find("#previous").addEventListener("click", () => step(-1));
find("#next").addEventListener("click", () => step(1));
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
find("#lightbox-close").addEventListener("click", () => dialog.close());
find("#not-camera").addEventListener("click", () => {
  dialog.close();
  excludeCamera(entries[at].camera);
});
find("#lightbox-search").addEventListener("click", () => {
  const entry = entries[at];
  dialog.close();
  search(entry.id, async () => (await call(entry.thumbnail).catch(() => null))?.blob());
});
