// People: entries grouped by the service, shown as tiles; name, merge, split, undo.

import { getJson, showThumbnail } from "./api.js";
import { timeOf } from "./describe.js";
import { exportCsv, exportHtml } from "./report.js";
import { count, t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const MOST_PICTURES = 24; // on one tile; the rest are named, merged and exported all the same
const undone = []; // former labels, newest last
let people = [];
let turn = 0;
let attempt = (work) => work();

export function setUpPeople(shared) {
  attempt = shared.attempt;
  find("#merge").addEventListener("click", merge);
  find("#undo").addEventListener("click", undo);
}

export async function showPeople() {
  const mine = ++turn;
  const status = find("#people-status");
  status.textContent = t("Grouping pictures into people…");
  let answer;
  do {
    answer = await getJson("v1/people");
    if (mine !== turn) return;
  } while (answer.status === "working");
  people = answer.people;
  const groups = people.filter((person) => person.name || person.entries.length > 1).length;
  const left = answer.left_out ? ` ${t("{n} more pictures were not grouped.", { n: answer.left_out.toLocaleString() })}` : "";
  status.textContent = people.length
    ? `${t("{n} people, joined from a mean cosine of {c}. Check them: appearance is not identity.", { n: groups, c: answer.threshold.toFixed(3) })}${left}`
    : t("The gallery is empty.");
  find("#tiles").replaceChildren(...people.map(tile));
  countChosen();
}

function tile(person) {
  const item = find("#person").content.cloneNode(true).firstElementChild;
  const title = person.name ?? t("Unnamed");
  item.querySelector("h3").textContent = title;
  const times = person.entries.map((entry) => entry.time).filter((time) => time !== null);
  const span = times.length ? timeOf({ time: Math.min(...times) }) : "";
  const cameras = [...new Set(person.entries.map((entry) => entry.camera).filter(Boolean))];
  item.querySelector(".quiet").textContent = [count(person.entries.length, "1 picture", "{n} pictures"), cameras.join(", "), span].filter(Boolean).join(" · ");
  const box = item.querySelector(".choose");
  box.setAttribute("aria-label", t("Choose {name} to merge", { name: title }));
  box.addEventListener("change", countChosen);
  item.querySelector(".pictures").append(...person.entries.slice(0, MOST_PICTURES).map((entry) => picture(entry, item)));
  const field = item.querySelector(".new-name");
  field.value = person.name ?? "";
  field.setAttribute("aria-label", t("Name of {name}", { name: title }));
  item.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    name(person.entries.map((entry) => entry.id), field.value.trim() || null);
  });
  item.querySelector(".split").addEventListener("click", () => split(item));
  item.querySelector(".as-html").addEventListener("click", () => attempt(() => exportHtml(title, person.entries)));
  item.querySelector(".as-csv").addEventListener("click", () => exportCsv(person.entries));
  return item;
}

function picture(entry, item) {
  const label = document.createElement("label");
  const image = Object.assign(document.createElement("img"), { alt: entry.source, loading: "lazy" });
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: entry.id });
  box.setAttribute("aria-label", t("Select {name}", { name: entry.source }));
  box.addEventListener("change", () => { item.querySelector(".split").disabled = !item.querySelector(".pictures :checked"); });
  showThumbnail(image, entry.thumbnail);
  label.append(image, box);
  return label;
}

const chosen = () => people.filter((_, index) => find("#tiles").children[index]?.querySelector(".choose").checked);

function countChosen() {
  find("#merge").disabled = chosen().length < 2;
  find("#undo").disabled = !undone.length;
}

// A name that nobody has yet: merged and split groups stay apart only by their label.
function freeName(base) {
  const taken = new Set(people.map((person) => person.name));
  for (let number = 1; ; number += 1) {
    const name = t("Person {n}", { n: number });
    if (base && !taken.has(base)) return base;
    if (!taken.has(name)) return name;
  }
}

function name(ids, person) {
  return attempt(async () => {
    const { before } = await getJson("v1/people", { method: "POST", json: { ids, person } });
    undone.push(before);
    await showPeople();
    find("#people-title").focus();
  });
}

function merge() {
  const groups = chosen();
  const ids = groups.flatMap((person) => person.entries.map((entry) => entry.id));
  name(ids, groups.find((person) => person.name)?.name ?? freeName());
}

function split(item) {
  const ids = [...item.querySelectorAll(".pictures :checked")].map((box) => box.value);
  name(ids, freeName());
}

function undo() {
  return attempt(async () => {
    const before = undone.pop();
    for (const person of new Set(Object.values(before))) {
      const ids = Object.keys(before).filter((id) => before[id] === person);
      await getJson("v1/people", { method: "POST", json: { ids, person } });
    }
    await showPeople();
    find("#people-title").focus();
  });
}
