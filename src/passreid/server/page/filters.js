// Filters: chips for cameras, people and tracklets with their counts, times, threshold, and how they read in a URL.

import { t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const form = find("#filters");
const KINDS = ["cameras", "people", "tracklets"];
const FIELDS = ["since", "until", "group_by"];
const chosen = { cameras: new Set(), not_cameras: new Set(), people: new Set(), tracklets: new Set() };
let counts = { cameras: {}, people: {}, tracklets: {} };
let changed = () => {};
let calibration = null;

export const threshold = () => (form.threshold.valueAsNumber <= Number(form.threshold.min) ? null : form.threshold.valueAsNumber);
export const groupBy = () => form.group_by.value;
export const onlyAbove = () => form.only_above.checked;

const seconds = (text) => (text ? new Date(text).getTime() / 1000 : "");

// Adds the filters to a form or to URL parameters, as the API names them.
export function conditions(target) {
  for (const [name, values] of Object.entries(chosen)) for (const value of values) target.append(name, value);
  for (const name of ["since", "until"]) if (form[name].value) target.append(name, seconds(form[name].value));
  return target;
}

export function toParameters(target) {
  for (const [name, values] of Object.entries(chosen)) for (const value of values) target.append(name, value);
  for (const name of FIELDS) if (form[name].value) target.append(name, form[name].value);
  if (threshold() !== null) target.append("threshold", form.threshold.value);
  if (onlyAbove()) target.append("only_above", "1");
  return target;
}

export function fromParameters(source) {
  for (const [name, values] of Object.entries(chosen)) {
    values.clear();
    for (const value of source.getAll(name)) values.add(value);
  }
  for (const name of FIELDS) form[name].value = source.get(name) ?? "";
  form.threshold.value = source.get("threshold") ?? form.threshold.min;
  form.only_above.checked = source.has("only_above");
  refresh();
}

export function clearFilters() {
  form.reset();
}

export function excludeCamera(camera) {
  chosen.cameras.delete(camera);
  chosen.not_cameras.add(camera);
  refresh();
  changed();
}

// `found` is told of every change.
export function setUpFilters(found) {
  changed = found;
  form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
  form.addEventListener("change", () => { refresh(); changed(); });
  form.addEventListener("input", showThreshold);
  form.addEventListener("reset", () => setTimeout(() => { // after the browser has reset the fields
    for (const values of Object.values(chosen)) values.clear();
    refresh();
    changed();
  }));
}

export function showCounts(overview) {
  counts = overview;
  refresh();
  const options = Object.keys(counts.cameras).map((camera) => new Option(camera, camera));
  find("#cameras").replaceChildren(...options);
  find("#people-names").replaceChildren(...Object.keys(counts.people).map((person) => new Option(person, person)));
}

function refresh() {
  const focused = document.activeElement?.dataset?.chip;
  for (const kind of KINDS) {
    const values = new Map(Object.entries(counts[kind]));
    for (const value of [...chosen[kind], ...(kind === "cameras" ? chosen.not_cameras : [])]) if (!values.has(value)) values.set(value, 0);
    find(`#chips-${kind}`).replaceChildren(...[...values].map(([value, number]) => chip(kind, value, number)));
    find(`#group-${kind}`).hidden = !values.size;
  }
  if (focused) [...form.querySelectorAll("[data-chip]")].find((each) => each.dataset.chip === focused)?.focus();
  showThreshold();
}

// A camera's chip goes from "any" to "only this" to "not this".
function chip(kind, value, number) {
  const button = document.createElement("button");
  const excluded = kind === "cameras" && chosen.not_cameras.has(value);
  button.type = "button";
  button.className = excluded ? "chip not" : "chip";
  button.dataset.chip = `${kind} ${value}`;
  button.setAttribute("aria-pressed", String(excluded || chosen[kind].has(value)));
  const small = Object.assign(document.createElement("span"), { className: "number", textContent: number.toLocaleString() });
  button.append(excluded ? t("not {name}", { name: value }) : value, " ", small);
  button.addEventListener("click", () => {
    if (excluded) chosen.not_cameras.delete(value);
    else if (!chosen[kind].delete(value)) chosen[kind].add(value);
    else if (kind === "cameras") chosen.not_cameras.add(value);
    refresh();
    changed();
  });
  return button;
}

// The slider begins where the calibration gives 1 %: below, no cosine means anything.
export function scaleThreshold(known) {
  calibration = known;
  const slider = form.threshold;
  const off = threshold() === null;
  const least = known ? (Math.log(0.01 / 0.99) - known.intercept) / known.slope : 0;
  slider.min = slider.defaultValue = Math.min(Math.max(least, -1), 0.98).toFixed(2);
  if (off) slider.value = slider.min;
  showThreshold();
}

function showThreshold() {
  const value = threshold();
  const text = value === null ? t("off") : t("cosine {c}", { c: value.toFixed(2) });
  find("#shown-threshold").value = text;
  form.threshold.setAttribute("aria-valuetext", text);
  const point = value === null ? null : calibration?.points.filter((each) => each.threshold <= value).at(-1);
  find("#meaning").textContent = !calibration
    ? t("This model is not calibrated, so scores have no error rate.")
    : point
      ? t("About 1 in {n} pairs of different people score this high. Measured on {data}.", { n: Math.round(1 / point.false_accept_rate).toLocaleString(), data: calibration.data })
      : t("Move right to hide lower scores.");
  const used = Object.values(chosen).reduce((sum, values) => sum + values.size, 0) + FIELDS.filter((name) => form[name].value).length + (value !== null) + onlyAbove();
  find("#active").textContent = used ? t("{n} in use", { n: used }) : "";
}
