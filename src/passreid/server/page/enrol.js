// Enrolling: many files, sent in parts, with a line back for each.

import { getJson, getLines } from "./api.js";
import { guess } from "./guess.js";
import { onDrop } from "./query.js";
import { count, t } from "./words.js";

const find = (selector) => document.querySelector(selector);
const PART = 16;

export const tooLarge = ({ file_bytes: most }) => t("is larger than the {n} MiB that a picture may have", { n: (most / 2 ** 20).toLocaleString() });

export function setUpEnrolment({ limits, changed }) {
  const dialog = find("#enrol");
  let running = null;
  find("#open-enrol").addEventListener("click", () => {
    if (!running) for (const part of ["#progress", "#stop"]) find(part).hidden = true;
    find("#enrol-status").textContent = "";
    find("#skipped").replaceChildren();
    find("#guessed").textContent = "";
    dialog.showModal();
  });
  find("#stop").addEventListener("click", () => running?.abort());
  find("#enrol-close").addEventListener("click", () => dialog.close()); // no submit button: Enter in a field closes nothing
  dialog.addEventListener("close", () => running?.abort());
  const take = async (chosen) => {
    const files = chosen.filter((file) => !file.name.startsWith(".") && (file.type.startsWith("image/") || !file.webkitRelativePath)); // a folder holds other things too
    if (!files.length) return;
    showGuesses(files);
    const batch = { files, about: described(), guessing: find("#guess").checked }; // of these, whatever is typed later
    if (running) {
      running.batches.push(batch);
      find("#progress").max += files.length;
      find("#enrol-status").textContent = count(files.length, "One more picture will be sent…", "{n} more pictures will be sent…");
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
  for (const part of ["#files", "#folder"]) find(part).addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = ""; // the same files may be chosen again
    take(files);
  });
  find("#samples").addEventListener("click", async () => {
    find("#open-enrol").click();
    find("#enrol-status").textContent = t("Drawing people…");
    const samples = await getJson("v1/samples").catch((error) => { find("#enrol-status").textContent = error.message; return []; });
    take(samples.map(({ name, data }) => new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name, { type: "image/jpeg" })));
  });
  onDrop(dialog, find("#enrol-drop"), take);
}

// What is typed holds for all files; a guess fills what was left empty.
function aboutFile(file, about) {
  return { ...guess(file.webkitRelativePath || file.name), ...about };
}

function showGuesses(files) {
  const guesses = files.map((file) => guess(file.webkitRelativePath || file.name));
  const [cameras, times] = ["camera", "time"].map((name) => guesses.filter((each) => each[name] !== undefined).length);
  find("#guessed").textContent = cameras + times && find("#guess").checked
    ? t("From the names of {n} files: {cameras} cameras, {times} times.", { n: files.length, cameras, times })
    : "";
}

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
  const report = (name, reason) => {
    const item = document.createElement("li");
    item.textContent = `${name}: ${reason}`;
    skipped.append(item);
  };
  const skip = (name, reason) => {
    tally.skipped += 1;
    report(name, reason);
  };
  const told = () => t("{added} added, {known} known already, {skipped} skipped", tally);
  const list = (line) => { // a duplicate is listed: someone may have expected a new picture
    if (line.event === "known") report(line.source, line.reason ?? t("is in the gallery already"));
    tally[line.event] += 1;
  };
  const send = async (part, about) => {
    let whole = false;
    for await (const line of getLines("v1/entries", { method: "POST", body: form(part, about), signal })) {
      if (line.event === "stopped") throw new Error(line.reason);
      if (line.event === "done") whole = true;
      else if (line.event === "skipped") skip(line.source, line.reason);
      else list(line);
      bar.value = tally.added + tally.known + tally.skipped;
      status.textContent = `${t("{i} of {n}", { i: bar.value, n: bar.max })}: ${told()}`;
    }
    if (!whole) throw new Error(t("The connection broke off; choose the same pictures again."));
  };
  skipped.replaceChildren();
  Object.assign(bar, { hidden: false, value: 0, max: batches[0].files.length });
  find("#stop").hidden = false;
  let ended = t("Done:");
  status.textContent = count(batches[0].files.length, "One picture will be sent…", "{n} pictures will be sent…");
  try {
    for (const { files, about, guessing } of batches) {
      for (const file of files) if (file.size > limits.file_bytes) skip(file.name, tooLarge(limits));
      const small = files.filter((file) => file.size <= limits.file_bytes);
      for (const part of parts(small, limits)) await send(part, part.map((file) => (guessing ? aboutFile(file, about) : about)));
    }
  } catch (error) {
    ended = error.name === "AbortError" ? t("Stopped:") : `${error.message} ${t("So far:")}`;
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
