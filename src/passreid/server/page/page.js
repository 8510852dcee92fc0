// The page: searches when the query or a filter changes, shows what is found, forgets on demand.

import { call, getJson, showThumbnail } from "./api.js";
import { setUpEnrolment } from "./enrol.js";
import { clearBox, onDrop, query, showQuery } from "./query.js";

const find = (selector) => document.querySelector(selector);
const filters = find("#filters");
const selected = new Set();
const cameras = new Set();
let info = { calibration: null, limits: { files: 16, file_bytes: 2 ** 24, request_bytes: 2 ** 26 } };
let turn = 0; // answers to older questions are dropped
let after = null;

const seconds = (text) => (text ? new Date(text).getTime() / 1000 : null);
const percent = (share) => (share >= 0.995 ? "over 99 %" : share < 0.01 ? "under 1 %" : `${Math.round(share * 100)} %`);
const chance = (cosine) => 1 / (1 + Math.exp(-(info.calibration.slope * cosine + info.calibration.intercept)));

function complain(error) {
  if (error.name === "AbortError") return;
  const alert = find("#alert");
  alert.textContent = error.message;
  alert.hidden = false;
}

async function attempt(work) {
  find("#alert").hidden = true;
  try {
    return await work();
  } catch (error) {
    complain(error);
    find("#status").textContent = "";
    return null;
  }
}

async function refreshInfo() {
  info = await getJson("v1/info");
  const forgets = info.retention_days ? `, kept for ${info.retention_days} days` : "";
  find("#about").textContent = `${info.gallery.count.toLocaleString()} pictures in ${info.gallery.name}${forgets} · ${info.model.name}`;
  showThreshold();
}

function showThreshold() {
  const value = Number(filters.threshold.value);
  const known = info.calibration;
  find("#shown-threshold").value = value <= -1 ? "any" : `cosine ${value.toFixed(2)}${known ? `, ${percent(chance(value))} sure` : ""}`;
  const point = known?.points.filter((each) => each.threshold <= value).at(-1);
  find("#meaning").textContent = !known
    ? "This model is not calibrated: cosines have no probability."
    : point
      ? `About ${point.false_accept_rate * 100} % of different people would pass (measured on ${known.data}).`
      : "Move it right to see only the same person.";
}

function conditions(target) {
  const set = (name, value) => value !== null && value !== "" && target.append(name, value);
  set("cameras", filters.cameras.value.trim());
  set("since", seconds(filters.since.value));
  set("until", seconds(filters.until.value));
  return target;
}

async function search() {
  const mine = ++turn;
  const body = conditions(new FormData());
  if (query.entry) body.append("entry", query.entry);
  else body.append("images", query.file);
  if (query.box) body.append("box", JSON.stringify(query.box));
  if (filters.group_by.value) body.append("group_by", filters.group_by.value);
  const least = Number(filters.threshold.value);
  if (least > -1) body.append("min_score", least);
  body.append("top_k", 60);
  find("#status").textContent = "Searching…";
  const answer = await attempt(() => getJson("v1/search", { method: "POST", body }));
  if (!answer || mine !== turn) return;
  find("#results-title").textContent = "Most alike";
  find("#more").hidden = true;
  show(answer.hits, { fresh: true });
  const many = answer.hits.length;
  find("#status").textContent = `${many} ${many === 1 ? "result" : "results"} among ${answer.searched.toLocaleString()} pictures, ${answer.seconds.toFixed(2)} s.`;
  if (!many) explain(answer.searched ? "Nobody fits. Lower the threshold or clear the filters." : "The gallery is empty. Enrol some pictures first.");
}

async function browse({ more = false } = {}) {
  const mine = ++turn;
  const wanted = conditions(new URLSearchParams({ limit: 60 }));
  if (more && after) wanted.append("after", after);
  const answer = await attempt(() => getJson(`v1/entries?${wanted}`));
  if (!answer || mine !== turn) return;
  after = answer.next;
  find("#results-title").textContent = "In the gallery";
  find("#more").hidden = !after;
  show(answer.entries, { fresh: !more });
  find("#status").textContent = `${answer.count.toLocaleString()} ${answer.count === 1 ? "picture" : "pictures"}.`;
  if (!answer.count) explain(info.gallery.count ? "No picture fits these filters." : "The gallery is empty. Choose “Enrol pictures” to begin.");
}

function explain(text) {
  find("#empty").textContent = text;
  find("#empty").hidden = false;
}

function show(entries, { fresh }) {
  if (fresh) {
    find("#grid").replaceChildren();
    selected.clear();
  }
  find("#empty").hidden = true;
  countSelected();
  find("#grid").append(...entries.map(card));
  for (const { camera } of entries) {
    if (!camera || cameras.has(camera)) continue;
    cameras.add(camera);
    find("#cameras").append(new Option(camera, camera));
  }
}

function card(entry) {
  const item = find("#card").content.cloneNode(true).firstElementChild;
  const name = entry.person ?? entry.source;
  const image = item.querySelector("img");
  image.alt = `Picture of ${name}`;
  showThumbnail(image, entry.thumbnail);
  const scored = entry.cosine !== undefined;
  const sure = entry.probability;
  item.querySelector(".score").textContent = scored ? `${sure === null ? "" : `${percent(sure)} · `}cosine ${entry.cosine.toFixed(3)}` : name;
  item.querySelector(".where").textContent = [entry.camera && `camera ${entry.camera}`, scored && name].filter(Boolean).join(" · ");
  item.querySelector(".where").title = entry.source;
  item.querySelector(".when").textContent = entry.time === null ? "" : new Date(entry.time * 1000).toLocaleString();
  item.classList.toggle("same", scored && sure !== null && sure >= 0.5);
  const box = item.querySelector("input");
  box.setAttribute("aria-label", `Select ${name}`);
  box.addEventListener("change", () => {
    box.checked ? selected.add(entry.id) : selected.delete(entry.id);
    countSelected();
  });
  const again = item.querySelector(".again");
  again.setAttribute("aria-label", `Search with ${name}`);
  again.addEventListener("click", () => attempt(async () => {
    const blob = await (await call(entry.thumbnail)).blob();
    await showQuery(blob, { entry: entry.id });
    await search();
    find("#results").focus();
  }));
  return item;
}

function countSelected() {
  find("#forget").disabled = !selected.size;
  find("#forget").textContent = selected.size ? `Forget ${selected.size} selected` : "Forget selected";
}

async function take([file]) {
  const [alert, drawn] = [find("#alert"), () => showQuery(file, { file })];
  alert.hidden = true;
  try {
    await drawn();
  } catch {
    return complain(new Error(`${file.name}: is not a picture this browser can read.`));
  }
  await search();
}

const refresh = () => (query.file || query.entry ? search() : browse());

find("#file").addEventListener("change", (event) => event.target.files.length && take([...event.target.files]));
onDrop(find("#drop"), take);
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) take(files);
});
find("#search").addEventListener("click", search);
find("#whole").addEventListener("click", () => { clearBox(); search(); });
find("#more").addEventListener("click", () => browse({ more: true }));
filters.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
filters.addEventListener("change", refresh);
filters.addEventListener("input", showThreshold);
filters.addEventListener("reset", () => setTimeout(() => { showThreshold(); refresh(); }));
find("#forget").addEventListener("click", () => {
  const dialog = find("#confirm");
  const many = selected.size;
  find("#confirm-text").textContent = `${many === 1 ? "This picture" : `These ${many} pictures`}, the embedding and all that was said of it will be gone for good.`;
  dialog.returnValue = "";
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && attempt(async () => {
    await getJson("v1/forget", { method: "POST", json: { ids: [...selected] } });
    await refreshInfo();
    await refresh();
  }), { once: true });
  dialog.showModal();
});
setUpEnrolment({ limits: () => info.limits, changed: () => attempt(async () => { await refreshInfo(); await refresh(); }) });

attempt(async () => { await refreshInfo(); await browse(); });
