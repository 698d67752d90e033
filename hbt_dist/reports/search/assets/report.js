"use strict";
// Puts the page together: choices, first drawing, sorting of tables.

function fillChoices() {
  const options = (texts) => texts.map((text, i) => el("option", { value: i }, text));
  const labels = DATA.objectives.map((objective) => objective.label);
  const [x, y] = [document.getElementById("x-objective"), document.getElementById("y-objective")];
  x.append(...options(labels));
  y.append(...options(labels));
  y.value = String(Math.min(1, labels.length - 1));
  document.getElementById("curve-parameter").append(...options(DATA.curves.map((curve) => curve.parameter)));
  for (const id of ["x-objective", "y-objective", "all-checkpoints"]) {
    document.getElementById(id).addEventListener("change", drawFront);
  }
  document.getElementById("curve-parameter").addEventListener("change", drawCurves);
}

function sortKey(cell) {
  const value = cell.dataset.v;
  if (value === undefined) return cell.textContent;
  return value === "" ? null : Number(value);
}

// Sorts by one column; missing values stay last, equal rows keep their order. The row of totals stays below.
function sortTable(table, column, head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const total = (row) => row.cells[0].textContent === "total";
  rows.sort(([a, p], [b, q]) => {
    if (total(p) !== total(q)) return total(p) ? 1 : -1;
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortTable(table, column, head));
  });
}

fillChoices();
const start = DATA.candidates.find((one) => one.knee) || DATA.candidates[0];
front.chosen = start;
drawFront();
drawDetails(start);
drawCurves();

let waiting = 0;
let drawnWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === drawnWidth) return; // a phone's address bar changes the height only
  drawnWidth = window.innerWidth;
  window.clearTimeout(waiting);
  waiting = window.setTimeout(() => { drawFront(); drawCurves(); }, 120);
});
