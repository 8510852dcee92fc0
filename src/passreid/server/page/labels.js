// Labelling: who the selected pictures show, and which camera and track they are of.

import { getJson } from "./api.js";
import { selected } from "./cards.js";
import { count, t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const FIELDS = ["person", "camera", "tracklet"];

// `changed` is told how many pictures have new labels; `attempt` shows what goes wrong.
export function setUpLabels({ attempt, changed }) {
  const dialog = find("#labels");
  const before = {};
  find("#label").addEventListener("click", () => {
    const many = selected.size;
    find("#labels-title").textContent = count(many, "Label 1 picture", "Label {n} pictures");
    for (const name of FIELDS) {
      const values = new Set([...selected.values()].map((entry) => entry[name] ?? ""));
      const field = find(`#label-${name}`);
      field.value = before[name] = values.size === 1 ? [...values][0] : "";
      const clear = find(`#clear-${name}`);
      clear.hidden = values.size === 1;
      field.placeholder = t(clear.hidden ? "unknown" : "several, kept");
      clear.onclick = () => {
        before[name] = null; // so that an empty field is a change
        Object.assign(field, { value: "", placeholder: t("unknown") }).focus();
        clear.hidden = true;
      };
    }
    dialog.returnValue = "";
    dialog.showModal();
  });
  find("#labels-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "save") return;
    const json = {};
    for (const name of FIELDS) {
      const text = find(`#label-${name}`).value.trim();
      if (text !== before[name]) json[name] = text || null; // null: unknown again
    }
    const ids = Object.keys(json).length ? [...selected.keys()] : [];
    if (ids.length) attempt(async () => {
      for (const id of ids) await getJson(`v1/entries/${id}`, { method: "PATCH", json });
      await changed(ids.length);
    });
  });
}
