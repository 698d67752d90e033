"use strict";
// The trade-off of two objectives: every checkpoint a mark, one of them chosen.

const front = { chosen: null, marks: [] };

function better(objective, a, b) {
  return objective.direction === "max" ? a > b : a < b;
}

function axisLabel(objective) {
  return `${objective.label} (${objective.direction === "max" ? "higher" : "lower"} is better)`;
}

function describe(candidate) {
  const values = DATA.objectives.map((objective, i) => `${objective.label} ${format(candidate.mean[i])}`);
  const place = candidate.knee ? ", knee" : candidate.front ? ", on the front" : "";
  return `point ${candidate.point}, step ${candidate.step}${place}: ${values.join(", ")}`;
}

// The checkpoints that no other beats in these two objectives, along the first.
function frontOfTwo(shown, i, j) {
  const [a, b] = [DATA.objectives[i], DATA.objectives[j]];
  const sorted = [...shown].sort((p, q) =>
    p.mean[i] !== q.mean[i] ? (better(a, p.mean[i], q.mean[i]) ? -1 : 1)
      : p.mean[j] === q.mean[j] ? 0 : better(b, p.mean[j], q.mean[j]) ? -1 : 1);
  const kept = [];
  for (const one of sorted) {
    if (!kept.length || better(b, one.mean[j], kept[kept.length - 1].mean[j])) kept.push(one);
  }
  return kept;
}

function spreadBars(chart, candidate, i, j) {
  const [x, y] = [chart.x(candidate.mean[i]), chart.y(candidate.mean[j])];
  const [sx, sy] = [candidate.std[i], candidate.std[j]];
  let path = "";
  if (sx !== null) path += `M${chart.x(candidate.mean[i] - sx)} ${y}H${chart.x(candidate.mean[i] + sx)}`;
  if (sy !== null) path += `M${x} ${chart.y(candidate.mean[j] - sy)}V${chart.y(candidate.mean[j] + sy)}`;
  return svg("path", { d: path, stroke: "#56B4E9", fill: "none" });
}

function shape(candidate) {
  if (candidate.knee) return svg("path", { d: "M0-9 9 0 0 9-9 0Z", fill: "#D55E00", stroke: "var(--ink)" });
  if (!candidate.front) return svg("circle", { r: 4, fill: "var(--ground)", stroke: "var(--edge)" });
  return candidate.fewer
    ? svg("circle", { r: 6, fill: "var(--ground)", stroke: "var(--blue)", "stroke-width": 2 })
    : svg("circle", { r: 6.5, fill: "var(--blue)" });
}

function mark(chart, candidate, i, j) {
  const node = svg("g", {
    class: "mark",
    transform: `translate(${chart.x(candidate.mean[i])} ${chart.y(candidate.mean[j])})`,
    role: "option",
    tabindex: "-1",
    "aria-selected": "false",
    "aria-label": describe(candidate),
    "data-point": candidate.point,
    "data-step": candidate.step,
  },
  svg("title", {}, describe(candidate)),
  svg("circle", { class: "ring", r: 12, fill: "transparent", stroke: "none", "stroke-width": 2 }),
  shape(candidate));
  node.addEventListener("click", () => choose(candidate, true));
  return { node, candidate };
}

function drawFront() {
  const holder = document.getElementById("front-chart");
  const i = Number(document.getElementById("x-objective").value);
  const j = Number(document.getElementById("y-objective").value);
  const everything = document.getElementById("all-checkpoints").checked;
  const complete = DATA.candidates.filter((one) => one.mean[i] !== null && one.mean[j] !== null);
  const shown = complete.filter((one) => everything || one.front || one === front.chosen);
  if (!shown.length) {
    holder.replaceChildren(el("p", {}, "No checkpoint has both objectives."));
    return;
  }
  const width = Math.max(300, Math.round(holder.clientWidth) || 640);
  const height = Math.round(Math.min(520, Math.max(300, width * 0.7)));
  const reach = (k) => span(shown.flatMap((one) => one.front && one.std[k] !== null
    ? [one.mean[k] - one.std[k], one.mean[k] + one.std[k]] : [one.mean[k]]));
  const axis = (k, wanted) => {
    const domain = reach(k);
    return { domain, ticks: tickTexts(domain, wanted), label: axisLabel(DATA.objectives[k]) };
  };
  const [a, b] = [DATA.objectives[i], DATA.objectives[j]];
  const chart = frame(width, height, axis(i, width / 110), axis(j, height / 60),
    `${b.label} against ${a.label}, ${shown.length} checkpoints`, "listbox");
  chart.root.setAttribute("aria-orientation", "horizontal");
  const line = frontOfTwo(complete, i, j).map((one, n) =>
    `${n ? "L" : "M"}${chart.x(one.mean[i])} ${chart.y(one.mean[j])}`).join("");
  chart.root.append(svg("path", { d: line, fill: "none", stroke: "var(--blue)", "stroke-dasharray": "5 4", "aria-hidden": "true" }));
  // Drawn from the unimportant to the important; the arrow keys go from left to right.
  const weight = (one) => (one.knee ? 2 : one.front ? 1 : 0);
  const drawn = [...shown].sort((p, q) => weight(p) - weight(q)).map((one) => mark(chart, one, i, j));
  for (const one of drawn) if (one.candidate.front) chart.root.append(spreadBars(chart, one.candidate, i, j));
  for (const one of drawn) chart.root.append(one.node);
  front.marks = drawn.sort((p, q) =>
    p.candidate.mean[i] - q.candidate.mean[i] || p.candidate.mean[j] - q.candidate.mean[j]);
  chart.root.addEventListener("keydown", moveByKey);
  holder.replaceChildren(chart.root);
  showChosen(false);
}

function moveByKey(event) {
  const at = front.marks.findIndex((one) => one.node === document.activeElement);
  const last = front.marks.length - 1;
  const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last, Enter: at, " ": at }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  choose(front.marks[Math.min(last, Math.max(0, to))].candidate, true);
}

function choose(candidate, focus) {
  front.chosen = candidate;
  showChosen(focus);
  drawDetails(candidate);
}

function showChosen(focus) {
  const active = front.marks.find((one) => one.candidate === front.chosen) || front.marks[0];
  for (const one of front.marks) {
    one.node.setAttribute("aria-selected", String(one.candidate === front.chosen));
    one.node.setAttribute("tabindex", one === active ? "0" : "-1");
  }
  if (focus && active) active.node.focus({ preventScroll: true });
}

function smallTable(caption, heads, rows) {
  return el("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": caption },
    el("table", {}, el("caption", {}, el("span", {}, caption)),
      el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value) =>
        el("td", typeof value === "number" ? { class: "n" } : {}, format(value))))))));
}

function drawDetails(candidate) {
  const point = DATA.points[candidate.point];
  const trials = DATA.trials.filter((one) => one.point === candidate.point);
  const hours = trials.reduce((sum, one) => sum + one.worker_hours, 0);
  const at = (trial, step) => DATA.history.find((row) => row[0] === trial && row[1] === step);
  const tags = [];
  if (candidate.knee) tags.push("knee");
  if (candidate.front) tags.push("on the front");
  for (const objective of DATA.objectives) {
    const best = DATA.best[objective.name];
    if (best && best[0] === candidate.point && best[1] === candidate.step) tags.push(`best ${objective.label}`);
  }
  if (candidate.fewer) tags.push("fewer seeds than others");
  if (point.source) tags.push(`source: ${point.source}`);
  const labels = DATA.objectives.map((objective) => objective.label);
  const perSeed = trials.map((one) => {
    const row = at(one.trial, candidate.step);
    return [one.seed, ...(row ? row[2] : labels.map(() => null)), one.trial, one.status, one.steps, Number(one.worker_hours.toFixed(3))];
  });
  const mean = ["mean", ...candidate.mean, "", "", "", Number(hours.toFixed(3))];
  const spread = ["std", ...candidate.std, "", "", "", ""];
  const steps = DATA.candidates.filter((one) => one.point === candidate.point)
    .map((one) => [one.step, one.seeds, ...one.mean]);
  const failures = trials.filter((one) => one.error).map((one) => el("li", {}, `${one.trial}: ${one.error}`));
  document.getElementById("details").replaceChildren(
    el("h3", {}, `Point ${candidate.point} after step ${candidate.step}`),
    el("ul", { class: "tags" }, ...tags.map((text) => el("li", {}, text))),
    el("dl", {}, ...point.parameters.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]),
      el("dt", {}, "worker hours"), el("dd", {}, hours.toFixed(3))),
    smallTable(`Seeds at step ${candidate.step}`, ["seed", ...labels, "trial", "status", "steps", "worker hours"], [...perSeed, mean, spread]),
    smallTable("All evaluations of the point, means over seeds", ["step", "seeds", ...labels], steps),
    ...(failures.length ? [el("h3", {}, "Errors"), el("ul", {}, ...failures)] : []),
  );
}
