// The page: searches when the query or a filter changes, shows what is found, keeps the search in the URL.

import { call, getJson } from "./api.js";
import { selected, showCards, shown } from "./cards.js";
import { compareEntries, openCompare } from "./compare.js";
import { setUpEnrolment, tooLarge } from "./enrol.js";
import { clearFilters, conditions, fromParameters, groupBy, onlyAbove, scaleThreshold, setUpFilters, showCounts, threshold, toParameters } from "./filters.js";
import { setUpLabels } from "./labels.js";
import { lookAtQuery, setUpLooks } from "./looks.js";
import { setUpPeople, showPeople } from "./people.js";
import { clearBox, forgetQuery, onBox, onDrop, query, showQuery } from "./query.js";
import { exportCsv, exportHtml } from "./report.js";
import { drawTimeline } from "./timeline.js";
import { count, setUpLanguage, t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const narrow = matchMedia("(max-width: 800px)");
let info = { calibration: null, limits: { files: 16, file_bytes: 2 ** 24, request_bytes: 2 ** 26 } };
let overview = { cut: null };
let turn = 0; // answers to older questions are dropped
let after = null;

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
    find("#status").textContent = find("#people-status").textContent = "";
    return null;
  } finally {
    find("#results").removeAttribute("aria-busy");
  }
}

async function refreshInfo() {
  [info, overview] = await Promise.all([getJson("v1/info"), getJson("v1/overview")]);
  const kept = info.retention_days ? count(info.retention_days, "deleted after 1 day", "deleted after {n} days") : t("kept until deleted");
  const audit = overview.audit ? t("audit log on") : t("no audit log");
  find("#about").textContent = [`${count(info.gallery.count, "1 picture", "{n} pictures")}: ${info.gallery.name}`, kept, audit, info.model.name].join(" · ");
  setUpLooks(info.model);
  scaleThreshold(info.calibration);
  showCounts(overview);
}

async function search() {
  const mine = ++turn;
  const body = conditions(new FormData());
  if (query.entry) body.append("entry", query.entry);
  else body.append("images", query.file);
  if (query.box) body.append("box", JSON.stringify(query.box));
  if (groupBy()) body.append("group_by", groupBy());
  if (threshold() !== null) body.append("min_score", threshold());
  body.append("top_k", 60);
  find("#status").textContent = t("Searching…");
  const answer = await attempt(() => getJson("v1/search", { method: "POST", body }));
  if (mine !== turn) return;
  if (!answer) return show("Best matches", [], { fresh: true, more: false }); // the last picture's hits are no answer to this one
  lookAtQuery();
  show("Best matches", answer.hits, { fresh: true, more: false, cut: overview.cut });
  find("#status").textContent = t("{hits} among {all}, {s} s.", {
    hits: count(answer.hits.length, "1 result", "{n} results"), all: count(answer.searched, "1 picture", "{n} pictures"), s: answer.seconds.toFixed(2) });
  if (answer.hits.length) return;
  if (answer.searched) explain("No picture fits. Lower the threshold or remove filters.", "Clear all filters", clearFilters);
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
  find("#status").textContent = answer.count ? count(answer.count, "1 picture.", "{n} pictures.") : "";
  if (answer.count) return;
  if (info.gallery.count) explain("No picture fits these filters.", "Clear all filters", clearFilters);
  else explainEmpty();
}

function explainEmpty() {
  explain("The gallery is empty. Enrol some pictures to begin.", "Enrol pictures", () => find("#open-enrol").click());
  find("#samples").hidden = false;
}

function explain(text, action, act) {
  find("#empty-text").textContent = t(text);
  find("#empty-action").textContent = t(action);
  find("#empty-action").onclick = act;
  find("#empty").hidden = false;
  find("#samples").hidden = true;
}

function show(title, entries, { fresh, more, cut = null }) {
  find("#results-title").textContent = t(title);
  find("#more").hidden = !more;
  find("#empty").hidden = true;
  find("#views").hidden = !entries.length;
  showCards(entries, { fresh, again, cut: entries.length ? cut : null, fpir: overview.fpir, onlyAbove: onlyAbove() });
  showView();
}

function showView() {
  const timeline = find("#as-timeline").getAttribute("aria-pressed") === "true";
  find("#grid").hidden = timeline;
  find("#timeline").hidden = !timeline;
  if (timeline) drawTimeline(find("#timeline"), shown, again);
}

// A search with an entry can be shared as a URL. One with a file goes back and forth in this tab only.
function keep() {
  const wanted = toParameters(new URLSearchParams());
  if (query.entry) wanted.set("entry", query.entry);
  if (!find("#people").hidden) wanted.set("view", "people");
  const text = String(wanted);
  const before = history.state;
  if (text === location.search.slice(1) && before?.file === query.file && String(before?.box) === String(query.box)) return;
  history.pushState({ file: query.file, box: query.box }, "", text ? `?${text}` : location.pathname);
}

async function restore() {
  const wanted = new URLSearchParams(location.search);
  const { file = null, box = null } = history.state ?? {};
  fromParameters(wanted);
  const entry = wanted.get("entry");
  if (entry) await attempt(async () => {
    const blob = await call(`v1/entries/${encodeURIComponent(entry)}/thumbnail`).then((answer) => answer.blob(), () => null);
    await showQuery(blob, { entry });
  });
  else if (file) {
    await showQuery(file, { file });
    query.box = box;
  } else forgetQuery();
  await open(wanted.get("view") === "people");
}

async function open(people) {
  find("#people").hidden = !people;
  find("#main").hidden = people;
  find("#to-people").setAttribute("aria-pressed", String(people));
  find("#to-search").setAttribute("aria-pressed", String(!people));
  await (people ? attempt(showPeople) : refresh());
}

const refresh = () => (query.file || query.entry ? search() : browse());

async function refreshAndKeep() {
  keep();
  await refresh();
}

async function searchNew() {
  keep();
  await search();
  if (narrow.matches) find("#results").scrollIntoView();
}

const again = (entry, picture) => attempt(async () => {
  await showQuery(await picture(), { entry });
  keep();
  await search();
  find("#results").focus();
});

async function take([file]) {
  find("#alert").hidden = true;
  if (file.size > info.limits.file_bytes) return complain(new Error(`${file.name}: ${tooLarge(info.limits)}.`));
  try {
    await showQuery(file, { file });
  } catch {
    return complain(new Error(t("{name}: is not a picture this browser can read. Choose a JPEG, PNG or WebP.", { name: file.name })));
  }
  if (find("#main").hidden) await open(false);
  await searchNew();
}

function askToForget() {
  const dialog = find("#confirm");
  find("#confirm-title").textContent = count(selected.size, "Forget 1 picture?", "Forget {n} pictures?");
  find("#confirm-text").textContent = t("Picture, embedding and labels are deleted. This cannot be undone.");
  dialog.returnValue = "";
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && attempt(async () => {
    const ids = [...selected.keys()];
    const { forgotten } = await getJson("v1/forget", { method: "POST", json: { ids } });
    await refreshInfo();
    if (ids.includes(query.entry)) forgetQuery();
    await refreshAndKeep();
    find("#status").textContent = `${count(forgotten, "1 picture was forgotten.", "{n} pictures were forgotten.")} ${find("#status").textContent}`;
    find("#results").focus();
  }), { once: true });
  dialog.showModal();
}

const toExport = () => (selected.size ? [...selected.values()] : [...shown]);

setUpLanguage(find("#language"));
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
find("#whole").addEventListener("click", () => { clearBox(); find("#frame").focus(); searchNew(); });
find("#remove").addEventListener("click", () => { forgetQuery(); find("#file").focus(); refreshAndKeep(); });
find("#more").addEventListener("click", () => browse({ more: true }));
find("#forget").addEventListener("click", askToForget);
find("#to-search").addEventListener("click", async () => { await open(false); keep(); });
find("#to-people").addEventListener("click", () => { const opened = open(true); keep(); return opened; });
find("#open-compare").addEventListener("click", openCompare);
find("#compare-selected").addEventListener("click", () => compareEntries([...selected.values()]));
find("#export-html").addEventListener("click", () => attempt(() => exportHtml(find("#results-title").textContent, toExport(), query.picture && find("#frame").toDataURL("image/jpeg"))));
find("#export-csv").addEventListener("click", () => exportCsv(toExport()));
for (const [pressed, other] of [["#as-pictures", "#as-timeline"], ["#as-timeline", "#as-pictures"]]) {
  find(pressed).addEventListener("click", () => {
    find(pressed).setAttribute("aria-pressed", "true");
    find(other).setAttribute("aria-pressed", "false");
    showView();
  });
}
find("#density").addEventListener("input", ({ target }) => find("#grid").style.setProperty("--size", `${target.value}px`));
setUpFilters(refreshAndKeep);
setUpLabels({ attempt, changed: async (many) => {
  await refreshInfo();
  await refresh();
  find("#status").textContent = `${count(many, "1 picture was labelled.", "{n} pictures were labelled.")} ${find("#status").textContent}`;
  find("#results").focus();
} });
setUpPeople({ attempt });
narrow.addEventListener("change", () => { find("#filter-box").open = !narrow.matches; });
find("#filter-box").open = !narrow.matches;
setUpEnrolment({ limits: () => info.limits, changed: () => attempt(async () => { await refreshInfo(); await open(!find("#people").hidden); }) });
window.addEventListener("popstate", restore);

attempt(async () => { await refreshInfo(); await restore(); });
