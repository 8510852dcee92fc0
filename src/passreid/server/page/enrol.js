// Enrolling: many files, sent in parts, with a line back for each.

import { getLines } from "./api.js";
import { onDrop } from "./query.js";

const find = (selector) => document.querySelector(selector);
const PART = 16;

export const tooLarge = ({ file_bytes: most }) => `is larger than the ${(most / 2 ** 20).toLocaleString()} MiB that a picture may have`;

export function setUpEnrolment({ limits, changed }) {
  const dialog = find("#enrol");
  let running = null;
  find("#open-enrol").addEventListener("click", () => {
    if (!running) for (const part of ["#progress", "#stop"]) find(part).hidden = true;
    find("#enrol-status").textContent = "";
    find("#skipped").replaceChildren();
    dialog.showModal();
  });
  find("#stop").addEventListener("click", () => running?.abort());
  find("#enrol-close").addEventListener("click", () => dialog.close()); // no submit button: Enter in a field closes nothing
  dialog.addEventListener("close", () => running?.abort());
  const take = async (files) => {
    if (!files.length) return;
    find("#files").value = ""; // the same files may be chosen again
    const batch = { files, about: described() }; // of these, whatever is typed later
    if (running) {
      running.batches.push(batch);
      find("#progress").max += files.length;
      find("#enrol-status").textContent = `${pictures(files.length, "more ")} will be sent…`;
      return;
    }
    running = Object.assign(new AbortController(), { batches: [batch] });
    try {
      await enrol(running, limits());
    } finally {
      running = null;
      find("#stop").hidden = true;
      changed();
    }
  };
  find("#files").addEventListener("change", (event) => take([...event.target.files]));
  onDrop(dialog, find("#enrol-drop"), take);
}

const pictures = (many, more = "") => (many === 1 ? `One ${more}picture` : `${many.toLocaleString()} ${more}pictures`);

function* parts(files, limits) {
  let part = [];
  let bytes = 0;
  for (const file of files) {
    if (part.length && (part.length >= Math.min(PART, limits.files) || bytes + file.size > limits.request_bytes * 0.9)) {
      yield part;
      part = [];
      bytes = 0;
    }
    part.push(file);
    bytes += file.size;
  }
  if (part.length) yield part;
}

// Batches may be added while it runs.
async function enrol({ batches, signal }, limits) {
  const tally = { added: 0, known: 0, skipped: 0 };
  const [bar, status, skipped] = [find("#progress"), find("#enrol-status"), find("#skipped")];
  const skip = (name, reason) => {
    tally.skipped += 1;
    const item = document.createElement("li");
    item.textContent = `${name}: ${reason}`;
    skipped.append(item);
  };
  const told = () => `${tally.added} added, ${tally.known} known already, ${tally.skipped} skipped`;
  const send = async (part, about) => {
    let whole = false;
    for await (const line of getLines("v1/entries", { method: "POST", body: form(part, about), signal })) {
      if (line.event === "stopped") throw new Error(line.reason);
      if (line.event === "done") whole = true;
      else if (line.event === "skipped") skip(line.source, line.reason);
      else tally[line.event] += 1;
      bar.value = tally.added + tally.known + tally.skipped;
      status.textContent = `${bar.value} of ${bar.max}: ${told()}`;
    }
    if (!whole) throw new Error("The connection broke off; choose the same pictures again.");
  };
  skipped.replaceChildren();
  Object.assign(bar, { hidden: false, value: 0, max: batches[0].files.length });
  find("#stop").hidden = false;
  let ended = "Done:";
  status.textContent = `${pictures(batches[0].files.length)} will be sent…`;
  try {
    for (const { files, about } of batches) {
      for (const file of files) if (file.size > limits.file_bytes) skip(file.name, tooLarge(limits));
      const small = files.filter((file) => file.size <= limits.file_bytes);
      for (const part of parts(small, limits)) await send(part, about);
    }
  } catch (error) {
    ended = error.name === "AbortError" ? "Stopped:" : `${error.message} So far:`;
  }
  status.textContent = `${ended} ${told()}.`;
}

function described() {
  const about = {};
  const [camera, person, time] = ["camera", "person", "time"].map((name) => find(`#enrol-${name}`).value.trim());
  if (camera) about.camera = camera;
  if (person) about.person = person;
  if (time) about.time = new Date(time).getTime() / 1000;
  return about;
}

function form(files, about) {
  const body = new FormData();
  for (const file of files) body.append("files", file);
  body.append("about", JSON.stringify(about));
  return body;
}
