"use strict";
const contexts = JSON.parse(document.getElementById("contexts").textContent);

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// The largest code that a feature has in any of the texts shown of it: full colour.
function strongest(feature) {
  const codes = (contexts[feature] || []).flatMap((context) => context.codes[feature]);
  return Math.max(1e-30, ...codes);
}

function shade(colour, code, most) {
  return `rgba(var(--${colour}), ${code > 0 ? (0.12 + 0.55 * Math.min(1, code / most)).toFixed(3) : 0})`;
}

// One stretch of text: the first feature colours the upper half of each token, the second the lower half.
function textOf(context, a, b) {
  const paragraph = make("p", "text");
  const most = { [a]: strongest(a), [b]: strongest(b) };
  context.tokens.forEach((token, n) => {
    if (n && context.positions[n] !== context.positions[n - 1] + 1) paragraph.append(" \u2026 ");
    const [first, second] = [context.codes[a][n], context.codes[b][n]];
    const span = make("span", n === context.peak ? "peak" : "", token.replace(/\n/g, "\u21b5"));
    span.title = `${a}: ${first.toPrecision(3)}\n${b}: ${second.toPrecision(3)}`;
    const [upper, lower] = [shade("a", first, most[a]), shade("b", second, most[b])];
    if (first > 0 || second > 0) span.style.background = `linear-gradient(${upper} 50%, ${lower} 50%)`;
    paragraph.append(span);
  });
  return paragraph;
}

function textsOf(feature, colour, a, b) {
  const column = make("div");
  const heading = make("h3", "", "Texts that ");
  heading.append(make("span", colour, feature), " fires most on");
  column.append(heading);
  const found = contexts[feature] || [];
  if (!found.length) column.append(make("p", "none", "It fires on no audited row."));
  for (const context of found) column.append(textOf(context, a, b));
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
  const { a, b } = button.dataset;
  const cell = make("td");
  cell.colSpan = row.cells.length;
  const both = make("div", "both");
  both.append(textsOf(a, "a", a, b), textsOf(b, "b", a, b));
  cell.append(both);
  const texts = make("tr", "texts");
  texts.append(cell);
  row.after(texts);
}

function sort(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") !== "descending";
  for (const open of table.querySelectorAll(".pair[aria-expanded=true]")) toggle(open);
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (x, y) =>
    value(x) === undefined
      ? x.cells[column].textContent.localeCompare(y.cells[column].textContent)
      : Number(value(x)) - Number(value(y));
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((x, y) => (descending ? compare(y, x) : compare(x, y))));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("pair")) toggle(button);
  else sort(button.closest("th"));
});
