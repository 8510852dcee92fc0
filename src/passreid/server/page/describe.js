// Says what a hit or an entry is, in the same words everywhere on the page.

import { language, t } from "./words.js";

const clock = new Intl.DateTimeFormat(language === "zh" ? "zh-Hans" : undefined, { dateStyle: "medium", timeStyle: "short" });

export const nameOf = (entry) => entry.person ?? entry.source;
export const timeOf = (entry) => (entry.time === null ? "" : clock.format(entry.time * 1000));
export const cosineOf = (entry) => t("cosine {c}", { c: entry.cosine.toFixed(3) });
export const bandOf = (entry) => (entry.band ? t(`${entry.band} match`) : cosineOf(entry));

const rounded = (value) => (value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));

export function strangersOf({ expected_strangers: number, is_bound: bound }) {
  const n = number < 0.001 ? "< 0.001" : `${bound ? "< " : ""}${rounded(number)}`;
  return t("{n} strangers expected", { n });
}

// Rows of [label, value] for the lightbox, the comparison and the report.
export function details(entry) {
  const rows = [];
  if (entry.cosine !== undefined) {
    if (entry.band) rows.push([t("Match"), bandOf(entry)], [t("Strangers at or above this score"), strangersOf(entry)]);
    rows.push([t("Cosine"), entry.cosine.toFixed(3)]);
  }
  const labels = [["Person", entry.person], ["Camera", entry.camera], ["Time", timeOf(entry)], ["Tracklet", entry.tracklet], ["File", entry.source]];
  for (const [label, value] of labels) if (value) rows.push([t(label), value]);
  return rows;
}

export function fillDetails(list, entry) {
  list.replaceChildren(...details(entry).flatMap(([label, value]) => [
    Object.assign(document.createElement("dt"), { textContent: label }),
    Object.assign(document.createElement("dd"), { textContent: value }),
  ]));
}
