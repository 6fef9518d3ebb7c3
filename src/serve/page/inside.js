// What happened inside a run: its chain to scrub, its noise levels and norms, and where the time went.

import { $, make, say, sharpen } from "./dom.js";
import { readSurely } from "./api.js";
import { showError } from "./errors.js";
import { plot, short } from "./plot.js";

/** What was recorded, by job: the server forgets it after a while. */
const known = new Map();
let seen = null;
let marks = [];
let playing = null;
/** The word whose attention is shown, by its place in the prompt. */
let word = null;

/** Prepares the controls. */
export function setUp() {
  $("scrub").oninput = () => {
    pause();
    go(Number($("scrub").value));
  };
  $("play").onclick = () => (playing ? pause() : play());
  sharpen($("x-t"));
  sharpen($("x-0"));
}

/** Shows what was recorded of a job. */
export async function showInside(id) {
  try {
    if (!known.has(id)) known.set(id, await readSurely(`v1/jobs/${id}/inside`));
  } catch (failure) {
    return showError({ message: failure.message });
  }
  pause();
  seen = known.get(id);
  $("nothing-inside").hidden = true;
  $("chain").hidden = false;
  $("scrub").max = seen.frames.length - 1;
  $("strip").replaceChildren(...seen.frames.map((frame, i) => {
    const images = [frame.sample, frame.pred_original_sample].map((src) =>
      src ? make("img", { src, alt: "" }) : make("span"));
    images.filter((image) => image.src).forEach(sharpen);
    return make("li", { onclick: () => (pause(), go(i)) }, ...images);
  }));
  word = null;
  showWords();
  showPlots();
  showKernels();
  showNumbers();
  go(seen.frames.length - 1);
}

/** The level of the noise after so many steps. */
const levelAfter = (step) => seen.schedule[step] ?? { timestep: 0, alpha_bar: 1, sigma: 0, snr: null };

/** Shows a frame. */
function go(i) {
  const { step, ...frame } = seen.frames[i];
  const level = levelAfter(step);
  $("scrub").value = i;
  const percent = Math.round(100 * level.alpha_bar);
  show("x-t", frame.sample, `after ${step} of ${seen.steps} steps`);
  show("x-0", frame.pred_original_sample, step ? "as the model sees it now" : "is not known before the first step");
  const where = `Step ${step} of ${seen.steps}: timestep ${short(level.timestep)}, ᾱ ${short(level.alpha_bar)} ` +
    `(${percent} % picture), σ ${short(level.sigma)}, SNR ${short(level.snr)}`;
  $("where").textContent = where;
  showLooks(frame);
  $("scrub").setAttribute("aria-valuetext", where);
  [...$("strip").children].forEach((item, at) => item.classList.toggle("now", at === i));
  marks.forEach((mark) => mark(step));
}

function show(id, url, text) {
  if (url) $(id).src = url;
  else $(id).removeAttribute("src");
  $(id).alt = url ? `${id.replace("-", "")} ${text}` : "";
  $(`${id}-text`).textContent = text;
}

function showWords() {
  const any = seen.frames.some((frame) => frame.attention.length);
  $("looks").hidden = !any;
  $("words").replaceChildren(...seen.words.map((text, i) => {
    const choose = () => {
      word = word === i ? null : i;
      [...$("words").children].forEach((button, at) => button.setAttribute("aria-pressed", String(at === word)));
      go(Number($("scrub").value));
    };
    return make("button", { type: "button", "aria-pressed": "false", onclick: choose }, text);
  }));
}

/** Shows of x_0 what looks at the chosen word, and of the rest a little. */
function showLooks({ attention }) {
  const map = word === null ? null : attention[word];
  $("x-0").classList.toggle("looked", Boolean(map));
  const text = word === null ? "" : map ? `At most ${(100 * map.peak).toFixed(1)} % of a place’s attention.`
    : "Nothing is known before the first step.";
  $("looks-at").textContent = text;
  $("x-0").style.maskImage = map ? `url("${map.map}"), linear-gradient(#222 0 0)` : "";
}

function play() {
  let i = Number($("scrub").value);
  if (i === seen.frames.length - 1) i = -1;
  $("play").setAttribute("aria-pressed", "true");
  $("play").textContent = "Pause";
  playing = setInterval(() => {
    i += 1;
    go(i);
    if (i === seen.frames.length - 1) pause();
  }, Math.max(80, 4000 / seen.frames.length));
  say("Playing");
}

function pause() {
  clearInterval(playing);
  playing = null;
  $("play").setAttribute("aria-pressed", "false");
  $("play").textContent = "Play";
}

function showPlots() {
  const last = seen.steps;
  const levels = Array.from({ length: last + 1 }, (_, step) => [step, levelAfter(step)]);
  const line = (name, field) => ({ name, points: levels.map(([step, level]) => [step, level[field]]) });
  const norms = (name, field) => ({ name, points: seen.frames.map((frame) => [frame.step, frame[field]]) });
  const plots = [
    plot({
      title: "ᾱ", last, lines: [line("ᾱ", "alpha_bar")],
      caption: "The picture’s share of xₜ = √ᾱ · x₀ + √(1 − ᾱ) · ε: 0 is noise alone, 1 the picture alone.",
    }),
    plot({
      title: "σ", last, log: true, lines: [line("σ", "sigma")],
      caption: "How much stronger the noise is than the picture, √((1 − ᾱ) / ᾱ).",
    }),
    plot({
      title: "SNR", last, log: true, lines: [line("SNR", "snr")],
      caption: "Signal to noise, 1 / σ²: at 1, picture and noise weigh the same.",
    }),
    plot({
      title: "Norms", last, lines: [norms("xₜ", "sample_rms"), norms("x₀", "pred_original_sample_rms")],
      caption: "‖x‖ / √n of the first picture, of the sample and of the estimate of the clean one.",
    }),
  ];
  marks = plots.map(({ mark }) => mark);
  $("plots").replaceChildren(...plots.map(({ figure }) => figure));
}

function showKernels() {
  const total = seen.kernels.reduce((sum, { seconds }) => sum + seconds, 0);
  const none = seen.untimed ?? "Something else was recorded at the time.";
  $("kernels-text").textContent = seen.kernels.length
    ? `Of all steps, ${short(total)} s by the device’s own clock; each launch was timed by itself.` : none;
  document.querySelector("#kernels table").hidden = seen.kernels.length === 0;
  $("kernel-rows").replaceChildren(...seen.kernels.map(({ kernel, launches, seconds }) => {
    const share = seconds / total;
    return make("tr", {}, make("td", {}, kernel), make("td", {}, String(launches)),
      make("td", {}, `${short(1e3 * seconds)} ms`),
      make("td", {}, make("meter", { value: share, "aria-hidden": "true" }), ` ${(100 * share).toFixed(1)} %`));
  }));
}

function showNumbers() {
  $("number-rows").replaceChildren(...seen.frames.map((frame) => {
    const level = levelAfter(frame.step);
    const x0 = frame.pred_original_sample_rms;
    const cells = [frame.step, level.timestep, level.alpha_bar, level.sigma, level.snr, frame.sample_rms];
    return make("tr", {}, ...cells.map((value) => make("td", {}, short(value))),
      make("td", {}, x0 === null ? "" : short(x0)));
  }));
}
