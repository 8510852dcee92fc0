// The page: searches when the query or a filter changes, shows what is found, forgets on demand.

import { getJson } from "./api.js";
import { selected, showCards } from "./cards.js";
import { setUpEnrolment, tooLarge } from "./enrol.js";
import { setUpLabels } from "./labels.js";
import { lookAtQuery, setUpLooks } from "./looks.js";
import { clearBox, forgetQuery, onBox, onDrop, query, showQuery } from "./query.js";

const find = (selector) => document.querySelector(selector);
const filters = find("#filters");
const narrow = matchMedia("(max-width: 800px)");
const cameras = new Set();
let info = { calibration: null, limits: { files: 16, file_bytes: 2 ** 24, request_bytes: 2 ** 26 } };
let turn = 0; // answers to older questions are dropped
let after = null;

const seconds = (text) => (text ? new Date(text).getTime() / 1000 : null);
const count = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

function complain(error) {
  if (error.name === "AbortError") return;
  const alert = find("#alert");
  alert.textContent = error.message;
  alert.hidden = false;
  alert.scrollIntoView({ block: "nearest" });
}

async function attempt(work) {
  find("#alert").hidden = true;
  find("#results").setAttribute("aria-busy", "true");
  try {
    return await work();
  } catch (error) {
    complain(error);
    find("#status").textContent = "";
    return null;
  } finally {
    find("#results").removeAttribute("aria-busy");
  }
}

async function refreshInfo() {
  info = await getJson("v1/info");
  const forgets = info.retention_days ? `, kept for ${count(info.retention_days, "day", "days")}` : "";
  find("#about").textContent = `${count(info.gallery.count, "picture", "pictures")} in ${info.gallery.name}${forgets} · model ${info.model.name}`;
  setUpLooks(info.model);
  scaleThreshold();
  showFilters();
}

// The slider begins where the calibration gives 1 %: below, no cosine means anything.
function scaleThreshold() {
  const [slider, known] = [filters.threshold, info.calibration];
  const off = slider.valueAsNumber <= Number(slider.min);
  const least = known ? (Math.log(0.01 / 0.99) - known.intercept) / known.slope : 0;
  slider.min = slider.defaultValue = Math.min(Math.max(least, -1), 0.98).toFixed(2);
  if (off) slider.value = slider.min;
  find("#points").replaceChildren(...(known?.points ?? []).map((point) => new Option("", point.threshold.toFixed(2))));
}

const threshold = () => (filters.threshold.valueAsNumber <= Number(filters.threshold.min) ? null : filters.threshold.valueAsNumber);

function showFilters() {
  const [value, known] = [threshold(), info.calibration];
  const shown = value === null ? "off" : `cosine ${value.toFixed(2)}`;
  find("#shown-threshold").value = shown;
  filters.threshold.setAttribute("aria-valuetext", shown);
  const point = value === null ? null : known?.points.filter((each) => each.threshold <= value).at(-1);
  find("#meaning").textContent = !known
    ? "This model is not calibrated: nobody knows how sure a cosine is."
    : point
      ? `About 1 in ${Math.round(1 / point.false_accept_rate).toLocaleString()} pairs of different people look this alike. Measured on ${known.data}.`
      : "Move it right to leave out who is probably somebody else.";
  const used = [value !== null, ...["cameras", "since", "until", "group_by"].map((name) => filters[name].value.trim())].filter(Boolean).length;
  find("#active").textContent = used ? `${used} in use` : "";
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
  if (threshold() !== null) body.append("min_score", threshold());
  body.append("top_k", 60);
  find("#status").textContent = "Searching…";
  const answer = await attempt(() => getJson("v1/search", { method: "POST", body }));
  if (mine !== turn) return;
  if (!answer) return show("Most alike", [], { fresh: true, more: false }); // the last picture's hits are no answer to this one
  lookAtQuery();
  show("Most alike", answer.hits, { fresh: true, more: false });
  find("#status").textContent = `${count(answer.hits.length, "result", "results")} among ${count(answer.searched, "picture", "pictures")}, ${answer.seconds.toFixed(2)} s.`;
  if (answer.hits.length) return;
  if (answer.searched) explain("Nobody fits. Lower the threshold or widen the filters.", "Clear all filters", () => filters.reset());
  else explainEmpty();
}

async function browse({ more = false } = {}) {
  const mine = ++turn;
  const wanted = conditions(new URLSearchParams({ limit: 60 }));
  if (more && after) wanted.append("after", after);
  const answer = await attempt(() => getJson(`v1/entries?${wanted}`));
  if (mine !== turn || (!answer && more)) return;
  if (!answer) return show("In the gallery", [], { fresh: true, more: false });
  after = answer.next;
  show("In the gallery", answer.entries, { fresh: !more, more: Boolean(after) });
  find("#status").textContent = answer.count ? `${count(answer.count, "picture", "pictures")}.` : "";
  if (answer.count) return;
  if (info.gallery.count) explain("No picture fits these filters.", "Clear all filters", () => filters.reset());
  else explainEmpty();
}

const explainEmpty = () => explain("The gallery is empty. Enrol some pictures to begin.", "Enrol pictures", () => find("#open-enrol").click());

function explain(text, action, act) {
  find("#empty-text").textContent = text;
  find("#empty-action").textContent = action;
  find("#empty-action").onclick = act;
  find("#empty").hidden = false;
}

function show(title, entries, { fresh, more }) {
  find("#results-title").textContent = title;
  find("#more").hidden = !more;
  find("#empty").hidden = true;
  showCards(entries, { fresh, again });
  for (const { camera } of entries) {
    if (!camera || cameras.has(camera)) continue;
    cameras.add(camera);
    find("#cameras").append(new Option(camera, camera));
  }
}

async function searchNew() {
  await search();
  if (narrow.matches) find("#results").scrollIntoView();
}

const again = (entry, picture) => attempt(async () => {
  await showQuery(await picture(), { entry });
  await search();
  find("#results").focus();
});

async function take([file]) {
  find("#alert").hidden = true;
  if (file.size > info.limits.file_bytes) return complain(new Error(`${file.name}: ${tooLarge(info.limits)}.`));
  try {
    await showQuery(file, { file });
  } catch {
    return complain(new Error(`${file.name}: is not a picture this browser can read. Choose a JPEG, PNG or WebP.`));
  }
  await searchNew();
}

function askToForget() {
  const dialog = find("#confirm");
  const many = selected.size;
  find("#confirm-title").textContent = `Forget ${count(many, "picture", "pictures")}?`;
  find("#confirm-text").textContent = `${many === 1 ? "It is" : "They are"} deleted with all that is known of ${many === 1 ? "it" : "them"}. This cannot be undone.`;
  dialog.returnValue = "";
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && attempt(async () => {
    const ids = [...selected.keys()];
    const { forgotten } = await getJson("v1/forget", { method: "POST", json: { ids } });
    await refreshInfo();
    if (ids.includes(query.entry)) forgetQuery();
    await refresh();
    find("#status").textContent = `${count(forgotten, "picture was", "pictures were")} forgotten. ${find("#status").textContent}`;
    find("#results").focus();
  }), { once: true });
  dialog.showModal();
}

const refresh = () => (query.file || query.entry ? search() : browse());

find("#file").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // the same file may be chosen again
  if (files.length) take(files);
});
onDrop(document.documentElement, find("#drop"), (files) => find("dialog[open]") || take(files));
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length && !find("dialog[open]")) take(files);
});
onBox(searchNew);
find("#search").addEventListener("click", searchNew);
find("#whole").addEventListener("click", () => { clearBox(); find("#frame").focus(); search(); });
find("#remove").addEventListener("click", () => { forgetQuery(); find("#file").focus(); browse(); });
find("#more").addEventListener("click", () => browse({ more: true }));
filters.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
filters.addEventListener("change", refresh);
filters.addEventListener("input", showFilters);
filters.addEventListener("reset", () => setTimeout(() => { showFilters(); refresh(); }));
find("#forget").addEventListener("click", askToForget);
setUpLabels({ attempt, changed: async (many) => {
  await refresh();
  find("#status").textContent = `${count(many, "picture was", "pictures were")} labelled. ${find("#status").textContent}`;
  find("#results").focus();
} });
narrow.addEventListener("change", () => { find("#filter-box").open = !narrow.matches; });
find("#filter-box").open = !narrow.matches;
setUpEnrolment({ limits: () => info.limits, changed: () => attempt(async () => { await refreshInfo(); await refresh(); }) });

attempt(async () => { await refreshInfo(); await browse(); });
