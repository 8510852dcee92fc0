// Talks to /v1: the token, problems as one sentence, thumbnails that an <img> could not ask for.

import { t } from "./words.js";

const KEY = "passreid-token";

if (location.hash.startsWith("#token=")) {
  sessionStorage.setItem(KEY, decoded(location.hash.slice(7)));
  history.replaceState(null, "", location.pathname + location.search);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a token with a bare "%" in it, typed as it is
  }
}

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let asking = null;

function askToken(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = document.querySelector("#login");
    const field = document.querySelector("#token");
    const empty = () => { field.value = ""; };
    empty();  // what was refused is not sent again
    document.querySelector("#login-title").textContent = t(refused ? "The service refuses this token" : "This service asks for a token");
    dialog.oncancel = empty;
    dialog.addEventListener("close", () => {
      asking = null;
      const token = field.value.trim();
      if (token) sessionStorage.setItem(KEY, token);
      resolve(Boolean(token));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export async function call(path, { method = "GET", body, json, signal } = {}) {
  for (let busy = 0; ; ) {
    const headers = {};
    const token = sessionStorage.getItem(KEY);
    if (token) headers.Authorization = `Bearer ${token}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, t("The service does not answer. Is it still running?"));
    }
    if (answer.ok) return answer;
    if (answer.status === 401 && (await askToken(token))) continue;
    if (answer.status === 429 && busy++ < 5) {
      const wait = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    throw new Problem(answer.status, told.detail || t("The service answered {status}.", { status: answer.status }));
  }
}

export async function getJson(path, options) {
  return (await call(path, options)).json();
}

// Ends early where the connection breaks: the caller knows which line is the last one.
export async function* getLines(path, options) {
  const reader = (await call(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  const broken = (error) => {
    if (error.name === "AbortError") throw error;
    return { done: true };
  };
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) return;
    text += value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}

export async function showThumbnail(image, path) {
  try {
    const url = URL.createObjectURL(await (await call(path)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    image.alt += ` (${t("no thumbnail")})`;
  }
}
