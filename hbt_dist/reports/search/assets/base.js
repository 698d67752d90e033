"use strict";
// Shared by the drawings: elements, numbers, axes. Text always goes in as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  for (const child of children || []) node.append(child);
  return node;
}

function el(name, attributes, ...children) {
  return build(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}

function format(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(4)));
}

// Round positions from low to high, about `wanted` of them.
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

// The span of values with a margin; never empty.
function span(values) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (!(high > low)) {
    const pad = Math.abs(low) * 0.05 || 0.5;
    return [low - pad, high + pad];
  }
  const pad = (high - low) * 0.07;
  return [low - pad, high + pad];
}

function linear(domain, range) {
  const slope = (range[1] - range[0]) / (domain[1] - domain[0]);
  return (value) => range[0] + (value - domain[0]) * slope;
}

// An empty chart with axes: {root, plot, x, y}. `x` is {domain, ticks: [[position, text]], label}, `y` alike.
function frame(width, height, x, y, label, role) {
  const left = 64, right = 14, top = 12, bottom = 46;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role, "aria-label": label });
  const toX = linear(x.domain, [left, width - right]);
  const toY = linear(y.domain, [height - bottom, top]);
  const axes = svg("g", { "aria-hidden": "true" });
  for (const [value, text] of y.ticks) {
    axes.append(
      svg("path", { d: `M${left} ${toY(value)}H${width - right}`, stroke: "var(--line)" }),
      svg("text", { x: left - 8, y: toY(value) + 4, "text-anchor": "end" }, text),
    );
  }
  for (const [value, text] of x.ticks) {
    axes.append(
      svg("path", { d: `M${toX(value)} ${height - bottom}v5`, stroke: "var(--soft)" }),
      svg("text", { x: toX(value), y: height - bottom + 19, "text-anchor": "middle" }, text),
    );
  }
  axes.append(
    svg("path", { d: `M${left} ${top}V${height - bottom}H${width - right}`, fill: "none", stroke: "var(--soft)" }),
    svg("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, x.label),
    svg("text", { transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label),
  );
  root.append(axes);
  return { root, x: toX, y: toY };
}

function tickTexts(domain, wanted) {
  return ticks(domain[0], domain[1], wanted).map((value) => [value, format(value)]);
}
