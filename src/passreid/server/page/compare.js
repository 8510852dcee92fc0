// Compares two entries or two files side by side.

import { getJson, showThumbnail } from "./api.js";
import { fillDetails, nameOf } from "./describe.js";
import { askAttention, paint } from "./looks.js";
import { t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const dialog = find("#compare");
const SIDES = ["a", "b"];
let turn = 0; // answers for an earlier pair are dropped
let pair = [null, null]; // entries or files

export const openCompare = () => { reset(); dialog.showModal(); };

export function compareEntries(entries) {
  openCompare();
  entries.forEach((entry, index) => setSide(index, entry));
  judge(() => getJson(`v1/entries/${entries[0].id}/compare/${entries[1].id}`));
}

function reset() {
  turn += 1;
  pair = [null, null];
  for (const side of SIDES) {
    find(`#image-${side}`).removeAttribute("src");
    find(`#image-${side}`).alt = "";
    find(`#details-${side}`).replaceChildren();
  }
  find("#verdict").textContent = t("Choose two pictures.");
  delete find("#verdict").dataset.same;
  find("#maps").open = false;
}

function setSide(index, picture) {
  pair[index] = picture;
  const image = find(`#image-${SIDES[index]}`);
  if (picture instanceof File) {
    image.src = URL.createObjectURL(picture);
    image.alt = picture.name;
    find(`#details-${SIDES[index]}`).textContent = picture.name;
  } else {
    image.alt = t("Picture of {name}", { name: nameOf(picture) });
    showThumbnail(image, picture.thumbnail);
    fillDetails(find(`#details-${SIDES[index]}`), picture);
  }
  find("#maps").open = false;
}

async function judge(ask) {
  const mine = ++turn;
  find("#verdict").textContent = t("Comparing…");
  try {
    const answer = await ask();
    if (mine === turn) showVerdict(answer);
  } catch (error) {
    if (mine === turn) find("#verdict").textContent = error.message;
  }
}

function showVerdict({ cosine, same_person: same, threshold, false_accept_rate: rate }) {
  const score = t("cosine {c}", { c: cosine.toFixed(3) });
  const verdict = find("#verdict");
  if (same === null) {
    verdict.textContent = `${score}. ${t("This model is not calibrated, so scores have no error rate.")}`;
    return;
  }
  verdict.dataset.same = same;
  const words = same ? t("Look like the same person") : t("Do not look like the same person");
  verdict.textContent = `${words}: ${score}, ${t("threshold {c}; 1 in {n} pairs of different people reach it", { c: threshold.toFixed(3), n: Math.round(1 / rate).toLocaleString() })}.`;
}

async function drawMaps() {
  if (!find("#maps").open) return;
  for (const [index, side] of SIDES.entries()) {
    const [canvas, picture, image] = [find(`#map-${side}`), pair[index], find(`#image-${side}`)];
    canvas.hidden = true;
    if (!picture || !image.naturalWidth) continue;
    const answer = await askAttention(picture).catch(() => null);
    if (!answer || pair[index] !== picture) continue;
    Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight, hidden: false });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    paint(pen, answer, [0, 0, canvas.width, canvas.height], find("#map-token").value);
  }
}

SIDES.forEach((side, index) => find(`#file-${side}`).addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (!file) return;
  if (pair.some((each) => each && !(each instanceof File))) reset(); // files are compared with files
  setSide(index, file);
  if (!pair.every(Boolean)) return;
  const body = new FormData();
  pair.forEach((each, place) => body.append(SIDES[place], each));
  judge(() => getJson("v1/compare", { method: "POST", body }));
}));
find("#maps").addEventListener("toggle", drawMaps);
find("#map-token").addEventListener("change", drawMaps);
find("#compare-close").addEventListener("click", () => dialog.close());
