// Exports what is shown as one self-contained HTML file or as CSV.

import { call } from "./api.js";
import { details } from "./describe.js";
import { language, t } from "./words.js";

const NOTICE = "Appearance is not identity. These pictures were ranked by how alike people look, clothes above all. A match is a lead to be checked by a person, never proof.";
const COLUMNS = ["rank", "band", "cosine", "expected_strangers", "person", "camera", "time", "tracklet", "source", "id"];

const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

async function dataUrl(blob) {
  const reader = new FileReader();
  const read = new Promise((resolve) => { reader.onload = () => resolve(reader.result); });
  reader.readAsDataURL(blob);
  return read;
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function exportHtml(title, entries, query) {
  const pictures = [];
  for (const entry of entries) {
    const blob = await call(entry.thumbnail).then((answer) => answer.blob()).catch(() => null);
    const image = blob ? `<img alt="" src="${await dataUrl(blob)}">` : "";
    const rows = details(entry).map(([label, value]) => `<dt>${escaped(label)}</dt><dd>${escaped(value)}</dd>`).join("");
    pictures.push(`<li>${image}<dl>${rows}</dl></li>`);
  }
  const searched = query ? `<figure><img alt="" src="${query}"><figcaption>${escaped(t("Searched with"))}</figcaption></figure>` : "";
  save("passreid-report.html", "text/html", `<!doctype html><html lang="${language}"><meta charset="utf-8"><title>${escaped(title)}</title>
<style>body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{height:220px}figure{margin:0 0 1rem}
ul{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:1rem}li{border:1px solid #ccc;border-radius:8px;padding:.7rem;break-inside:avoid}
dl{margin:.5rem 0 0;overflow-wrap:anywhere}dt{font-size:.8rem;color:#555}dd{margin:0 0 .3rem}.notice{border:2px solid #b3261e;padding:.7rem;border-radius:8px}</style>
<h1>${escaped(title)}</h1><p class="notice">${escaped(t(NOTICE))}</p><p>${escaped(new Date().toLocaleString())}</p>${searched}<ul>${pictures.join("\n")}</ul></html>`);
}

// A cell that begins with = + - @ would be run as a formula by spreadsheets.
function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function exportCsv(entries) {
  const rows = entries.map((entry) => COLUMNS.map((name) => cell(name === "time" && entry.time !== null ? new Date(entry.time * 1000).toISOString() : entry[name])).join(","));
  save("passreid-report.csv", "text/csv", `\ufeff# ${NOTICE.replaceAll(",", ";")}\r\n${[COLUMNS.join(","), ...rows].join("\r\n")}\r\n`);
}
