// Line plots as SVG.

import { make } from "./dom.js";

const WIDTH = 480, HEIGHT = 220, LEFT = 52, RIGHT = 14, TOP = 14, BOTTOM = 34;

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number in few characters. */
export function short(value) {
  if (value === null || value === undefined) return "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e4 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** About five round values between two. */
function ticks(low, high, log) {
  if (log) {
    const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const step = Math.max(1, Math.ceil((to - from) / 5));
    const powers = [];
    for (let power = from; power <= to; power += step) powers.push(10 ** power);
    return powers.length > 1 ? powers : [low, high];
  }
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) values.push(i * step);
  return values;
}

/**
 * A plot of `lines`, `{name, points: [[x, y], …]}`, at most two, over the steps 0 to `last`. Values that a logarithm
 * has no place for, and infinite ones (null), are left out. Returns the figure and a function that marks a step.
 */
export function plot({ title, caption, lines, last, log = false }) {
  const shown = lines.map(({ name, points }) =>
    ({ name, points: points.filter(([, y]) => y !== null && (!log || y > 0)) }));
  const values = shown.flatMap(({ points }) => points.map(([, y]) => y));
  let low = Math.min(...values), high = Math.max(...values);
  if (!log) low = Math.min(low, 0);
  if (!(high > low)) [low, high] = log ? [low / 10, high * 10] : [low, low + 1];
  const scale = log ? Math.log10 : (value) => value;
  const x = (step) => LEFT + (WIDTH - LEFT - RIGHT) * step / Math.max(1, last);
  const y = (value) =>
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (scale(value) - scale(low)) / (scale(high) - scale(low));
  const text = (content, attributes) => svg("text", attributes, content);

  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const label = shown.filter(({ points }) => points.length).map(({ name, points }) =>
    `${name} from ${short(points[0][1])} to ${short(points.at(-1)[1])}`);
  drawing.setAttribute("aria-label", `${title}: ${label.join("; ")}`);
  for (const value of ticks(low, high, log)) {
    drawing.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      text(short(value), { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }));
  }
  for (const step of ticks(0, Math.max(1, last), false).filter(Number.isInteger)) {
    drawing.append(text(String(step), { x: x(step), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }));
  }
  drawing.append(text("steps done", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }));
  shown.forEach(({ name, points }, i) => {
    const kind = i === 0 ? "one" : "two";
    drawing.append(svg("polyline", { class: kind, points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
    if (shown.length > 1) drawing.append(text(name, { class: `is-${kind}`, x: LEFT + 8 + 60 * i, y: HEIGHT - 4 }));
  });
  const now = svg("line", { class: "now", y1: TOP, y2: HEIGHT - BOTTOM });
  drawing.append(now);
  const about = make("figcaption", {}, make("h2", {}, title), make("p", { class: "soft" }, caption));
  const figure = make("figure", {}, about, drawing);
  const mark = (step) => {
    now.setAttribute("x1", x(step));
    now.setAttribute("x2", x(step));
  };
  return { figure, mark };
}
