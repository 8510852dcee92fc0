// The page's language. English texts are the keys; what has no translation stays English.

import { chinese } from "./chinese.js";

const KEY = "passreid-language";

const wished = localStorage.getItem(KEY) ?? navigator.language;
export const language = wished.toLowerCase().startsWith("zh") ? "zh" : "en";

// t("{n} pictures", { n: 3 })
export function t(text, values = {}) {
  const pattern = language === "zh" ? chinese[text] ?? text : text;
  return pattern.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export function count(number, one, many) {
  return t(number === 1 ? one : many, { n: number.toLocaleString(language) });
}

// Translates what index.html says in English: texts, labels for screen readers, placeholders.
export function translate(root) {
  if (language === "en") return;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const text = node.data.replace(/\s+/g, " ").trim();
    if (chinese[text]) node.data = ` ${chinese[text]} `;
  }
  for (const name of ["aria-label", "placeholder", "title"]) {
    for (const element of root.querySelectorAll(`[${name}]`)) element.setAttribute(name, t(element.getAttribute(name)));
  }
  for (const template of root.querySelectorAll("template")) translate(template.content);
}

export function setUpLanguage(select) {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = t(document.title);
  translate(document.body);
  select.value = language;
  select.addEventListener("change", () => {
    localStorage.setItem(KEY, select.value);
    location.reload(); // every text on the page changes
  });
}
