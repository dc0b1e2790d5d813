"use strict";
const { texts, maps } = JSON.parse(document.getElementById("data").textContent);

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Texts of features

// The largest code that a feature has in any of its own texts: full colour.
function strongest(contexts, feature) {
  return Math.max(1e-30, ...(contexts[feature] || []).flatMap((context) => context.codes[feature]));
}

function shade(colour, code, most) {
  return `rgba(var(--${colour}), ${code > 0 ? (0.12 + 0.55 * Math.min(1, code / most)).toFixed(3) : 0})`;
}

// One stretch of text: the first feature colours the upper half of each token, the second the lower half.
function textOf(context, a, b, most) {
  const paragraph = make("p", "text");
  context.tokens.forEach((token, n) => {
    if (context.gaps.includes(n)) paragraph.append(" \u2026 ");
    const [first, second] = [context.codes[a][n], context.codes[b][n]];
    const span = make(n === context.peak ? "mark" : "span", "", token.replace(/\n/g, "\u21b5"));
    span.title = `${a}: ${first}\n${b}: ${second}`;
    if (first > 0 || second > 0)
      span.style.background = `linear-gradient(${shade("a", first, most[a])} 50%, ${shade("b", second, most[b])} 50%)`;
    paragraph.append(span);
  });
  const [first, second] = [context.codes[a][context.peak], context.codes[b][context.peak]];
  const note = make("small", "", "on the framed token ");
  note.append(make("span", "a", a), `: ${first}, `, make("span", "b", b), `: ${second}`);
  paragraph.append(note);
  return paragraph;
}

function textsOf(contexts, feature, colour, a, b) {
  const column = make("div");
  const heading = make("h3", "", "Texts that ");
  heading.append(make("span", colour, feature), " fires most on");
  column.append(heading);
  const found = contexts[feature] || [];
  if (!found.length) column.append(make("p", "none", "It fires on no audited row."));
  const most = { [a]: strongest(contexts, a), [b]: strongest(contexts, b) };
  for (const context of found) column.append(textOf(context, a, b, most));
  return column;
}

function toggle(button) {
  const row = button.closest("tr");
  const open = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!open));
  if (open) {
    row.nextElementSibling.remove();
    return;
  }
  const contexts = texts[button.dataset.run];
  const [first, ...others] = button.dataset.features.split(" ");
  const all = make("div", "both");
  all.append(textsOf(contexts, first, "a", first, others[0]));
  for (const other of others) all.append(textsOf(contexts, other, "b", first, other));
  const cell = make("td");
  cell.colSpan = row.cells.length;
  cell.append(all);
  const below = make("tr", "texts");
  below.append(cell);
  row.after(below);
}

function closeAll(table) {
  for (const open of table.querySelectorAll(".pair[aria-expanded=true]")) toggle(open);
}

// Sorting

function sort(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") !== "descending";
  closeAll(table);
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (x, y) =>
    value(x) === undefined || value(y) === undefined
      ? x.cells[column].textContent.localeCompare(y.cells[column].textContent)
      : Number(value(x)) - Number(value(y));
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((x, y) => (descending ? compare(y, x) : compare(x, y))));
}

// Filtering: every word must be in the row, or in the texts of its features.

const searched = new WeakMap();

function searchedText(row) {
  if (!searched.has(row)) {
    const parts = [...row.cells].map((cell) => cell.textContent);
    const button = row.querySelector(".pair");
    for (const feature of button ? button.dataset.features.split(" ") : [])
      for (const context of texts[button.dataset.run][feature] || []) parts.push(context.tokens.join(""));
    searched.set(row, parts.join(" ").toLowerCase());
  }
  return searched.get(row);
}

function filter(input) {
  const table = document.getElementById(input.dataset.rows);
  closeAll(table);
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of table.tBodies[0].rows) row.hidden = !words.every((word) => searchedText(row).includes(word));
  count(input);
}

function count(input) {
  const rows = [...document.getElementById(input.dataset.rows).tBodies[0].rows].filter((r) => r.className !== "texts");
  const shown = rows.filter((row) => !row.hidden && !row.classList.contains("off")).length;
  const all = rows.length.toLocaleString("en");
  input.parentNode.querySelector("output").textContent =
    shown === rows.length ? `${all} rows` : `${shown.toLocaleString("en")} of ${all} rows`;
}

function show(box) {
  for (const table of document.querySelectorAll("table")) closeAll(table);
  for (const part of document.querySelectorAll(`[data-of="${box.dataset.run}"]`))
    part.classList.toggle("off", !box.checked);
  document.querySelectorAll("input[data-rows]").forEach(count);
}

// Heat maps

function colours() {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2].map((n) => style.getPropertyValue(`--heat${n}`).split(",").map(Number));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * 2;
    const [from, to] = place < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    return from.map((value, n) => value + (to[n] - value) * (place < 1 ? place : place - 1));
  });
}

function cell(map, i, j) {
  const [row, column] = i < j ? [i, j] : [j, i];
  return map.cells.charCodeAt((row * (2 * map.features.length - row - 1)) / 2 + column - row - 1);
}

function draw(map, ramp) {
  const size = map.features.length;
  const context = document.getElementById(map.id).getContext("2d");
  const image = context.createImageData(size, size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++)
      image.data.set([...(i === j ? ramp[64] : ramp[cell(map, i, j)]), 255], 4 * (i * size + j));
  context.putImageData(image, 0, 0);
}

function point(map, event) {
  const box = event.target.getBoundingClientRect();
  const size = map.features.length;
  const [i, j] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((share) =>
    Math.min(size - 1, Math.max(0, Math.floor(share * size))),
  );
  const value = i === j ? "the same feature" : `${map.symbol} about ${((cell(map, i, j) / 255) * map.most).toPrecision(2)}`;
  event.target.nextElementSibling.querySelector("output").textContent =
    `${map.features[i]}, ${map.features[j]}: ${value}`;
}

for (const map of maps) {
  map.cells = atob(map.cells);
  document.getElementById(map.id).addEventListener("pointermove", (event) => point(map, event));
}

function drawAll() {
  const ramp = colours();
  for (const map of maps) draw(map, ramp);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("pair")) toggle(button);
  else if (button.classList.contains("sort")) sort(button.closest("th"));
});
document.addEventListener("input", (event) => {
  if (event.target.matches("input[data-rows]")) filter(event.target);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("input.show")) show(event.target);
});
