"use strict";
// Objectives along one parameter, one panel each; rows are [value, mean, min, max, seed std, runs].

const SERIES = ["var(--blue)", "#B36B00", "#009E73", "#A0527F", "#D55E00"];

function curvePlaces(curve) {
  const values = [...new Set(curve.series.flat().map((row) => row[0]))];
  if (curve.scale === "choice") {
    const place = new Map(values.map((value, i) => [value, i]));
    const texts = values.map((value, i) => [i, String(value).length > 14 ? `${String(value).slice(0, 13)}…` : String(value)]);
    return { to: (value) => place.get(value), domain: [-0.5, values.length - 0.5], ticks: texts };
  }
  if (curve.scale === "log") {
    const domain = span(values.map(Math.log10));
    const whole = ticks(domain[0], domain[1], 4).map((power) => [power, Number((10 ** power).toPrecision(2)).toExponential()]);
    return { to: Math.log10, domain, ticks: whole };
  }
  const domain = span(values);
  return { to: (value) => value, domain, ticks: tickTexts(domain, 5) };
}

function panel(curve, objective, rows, color, width) {
  const places = curvePlaces(curve);
  const reach = span(rows.flatMap((row) => [row[2], row[3], row[1] - (row[4] || 0), row[1] + (row[4] || 0)]));
  const chart = frame(width, 240,
    { domain: places.domain, ticks: places.ticks, label: curve.parameter },
    { domain: reach, ticks: tickTexts(reach, 4), label: "" },
    `${objective.label} along ${curve.parameter}: ` + rows.map((row) => `${format(row[0])}: ${format(row[1])}`).join(", "), "img");
  const at = (row) => chart.x(places.to(row[0]));
  for (const row of rows) {
    const x = at(row);
    chart.root.append(svg("path", { d: `M${x} ${chart.y(row[2])}V${chart.y(row[3])}`, stroke: color, "stroke-width": 7, "stroke-opacity": 0.3 }));
    if (row[4] !== null) {
      const [low, high] = [chart.y(row[1] - row[4]), chart.y(row[1] + row[4])];
      chart.root.append(svg("path", { d: `M${x} ${low}V${high}M${x - 4} ${low}h8M${x - 4} ${high}h8`, stroke: color, "stroke-width": 1.5 }));
    }
  }
  if (curve.scale !== "choice") {
    const line = rows.map((row, n) => `${n ? "L" : "M"}${at(row)} ${chart.y(row[1])}`).join("");
    chart.root.append(svg("path", { d: line, fill: "none", stroke: color, "stroke-width": 1.5 }));
  }
  for (const row of rows) {
    chart.root.append(svg("circle", { cx: at(row), cy: chart.y(row[1]), r: 4.5, fill: color },
      svg("title", {}, `${curve.parameter} ${format(row[0])}: ${format(row[1])} (seed std ${format(row[4])}, ${row[5]} runs)`)));
  }
  return el("figure", {}, el("figcaption", {}, axisLabel(objective)), chart.root);
}

function drawCurves() {
  const holder = document.getElementById("curve-charts");
  const curve = DATA.curves[Number(document.getElementById("curve-parameter").value)];
  if (!curve) {
    holder.replaceChildren(el("p", {}, "No parameter varies."));
    return;
  }
  const width = Math.max(280, Math.min(560, Math.round(holder.clientWidth) || 560));
  const panels = DATA.objectives
    .map((objective, i) => [objective, curve.series[i], SERIES[i % SERIES.length]])
    .filter(([, rows]) => rows.length)
    .map(([objective, rows, color]) => panel(curve, objective, rows, color, width));
  holder.replaceChildren(...panels);
}
