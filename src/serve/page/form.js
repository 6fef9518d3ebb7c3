// The form: which fields a model has, the request that they make, and a request's values put back into them.

import { $, make } from "./dom.js";
import { Failure } from "./api.js";
import { clearLoras, fillLoras, lorasOf, offerLoras } from "./loras.js";
import { know, model, server, takesPictures } from "./models.js";
import { fillStart, startOf } from "./start.js";

const KINDS = {
  text: "It paints what a text says.",
  classes: "It paints pictures of the classes it was trained on.",
  pixels: "It paints pictures like those it was trained on.",
  inpaint: "It paints into a picture what a text says.",
  edit: "It changes a picture as a text says.",
  upscale: "It enlarges a picture to four times its sides.",
  super_resolution: "It enlarges a picture.",
};
/** Fields whose value is a number, and whether it is a whole one. */
const NUMBERS = { width: true, height: true, steps: true, batch_size: true, guidance_scale: false, strength: false };
/** Settings of a picture that have no field here, but belong to it. */
let others = {};

/** Offers what the server has. */
export function offer(answer) {
  know(answer);
  const usable = server.models.filter((model) => !model.error);
  $("model").replaceChildren(...server.models.map((model) =>
    make("option", { value: model.name, disabled: Boolean(model.error) }, model.name)));
  const first = usable.find((model) => model.kind === "text") ?? usable[0];
  if (first) $("model").value = first.name;
  $("schedule").replaceChildren(make("option", { value: "" }, "its own"),
    ...server.schedules.map((name) => make("option", { value: name }, name)));
  $("batch_size").max = server.limits.pictures;
  $("prompt").maxLength = $("negative_prompt").maxLength = server.limits.prompt;
  $("steps").max = server.limits.steps;
  $("device").textContent = server.device;
  offerLoras(server.loras);
  showModel();
}

/** Shows the fields that the chosen model has, with its defaults. */
export function showModel() {
  const facts = model();
  const broken = server.models.filter((one) => one.error).map((one) => `${one.name}: ${one.error}`);
  $("about").textContent = [KINDS[facts.kind], ...broken].join(" ");
  for (const field of document.querySelectorAll("[data-kinds]")) {
    field.hidden = !field.dataset.kinds.split(" ").includes(facts.kind);
  }
  for (const field of Object.keys(NUMBERS)) {
    const value = facts.defaults[field];
    $(field).placeholder = [value].flat()[0] ?? "";
  }
  $("strength").placeholder = facts.defaults.strength ?? "0.8";
  $("width").step = $("height").step = facts.multiple;
  $("width").min = $("height").min = facts.multiple;
  if (facts.classes) {
    const last = facts.classes - 1 - (facts.defaults.null_class === facts.classes - 1 ? 1 : 0);
    $("about-class").textContent = `0 to ${last}; several, with commas, take turns.`;
  }
  const own = facts.defaults.scheduler;
  $("scheduler").replaceChildren(make("option", { value: "" }, own ? `model’s (${plain(own)})` : "model’s"),
    ...server.samplers.map((name) => make("option", { value: name }, name)));
  $("start").open = ["inpaint", "edit", "upscale", "super_resolution"].includes(facts.kind);
  showSchedule();
}

const plain = (scheduler) => scheduler.replace(/Scheduler$/, "");

/** A schedule belongs to a sampler that is named. */
export function showSchedule() {
  $("schedule").disabled = !$("scheduler").value;
  if ($("schedule").disabled) $("schedule").value = "";
}

function number(field, whole) {
  const input = $(field);
  if (input.validity.badInput) throw new Failure({ field, message: "This is not a number." });
  if (input.value === "") return undefined;
  const value = Number(input.value);
  if (whole && !Number.isInteger(value)) throw new Failure({ field, message: "A whole number, please." });
  if (value < 0) throw new Failure({ field, message: "It cannot be negative." });
  return value;
}

/** Whole numbers with commas between them. */
function numbers(field, message) {
  const parts = $(field).value.split(",").map((part) => part.trim()).filter(Boolean);
  if (!parts.every((part) => /^\d{1,19}$/.test(part))) throw new Failure({ field, message });
  const values = parts.map(Number);
  if (!values.every(Number.isSafeInteger)) throw new Failure({ field, message: "It is too large." });
  return values;
}

/** The request that the fields make, without a seed if it shall be another one each time. Throws a `Failure`. */
export async function request() {
  const kind = model().kind;
  const has = (field) => !document.querySelector(`[data-field="${field}"]`).hidden;
  const request = { ...others, model: model().name };
  if (has("prompt")) {
    request.prompt = [$("prompt").value];
    if ($("negative_prompt").value.trim()) request.negative_prompt = [$("negative_prompt").value];
  }
  const classes = kind === "classes" ? numbers("class", "The number of a class, or several with commas.") : [];
  if (classes.length) request.class = classes;
  for (const [field, whole] of Object.entries(NUMBERS)) {
    const value = has(field) && field !== "strength" ? number(field, whole) : undefined;
    if (value !== undefined) request[field] = field === "guidance_scale" ? [value] : value;
  }
  if ($("scheduler").value) request.scheduler = `${$("scheduler").value} ${$("schedule").value}`.trim();
  const loras = lorasOf();
  if (loras.length) request.lora = loras;
  if (takesPictures()) {
    const start = await startOf();
    Object.assign(request, start);
    const strength = start.image && has("strength") ? number("strength", false) : undefined;
    if (strength !== undefined) request.strength = strength;
  }
  const seeds = $("lock").getAttribute("aria-pressed") === "true"
    ? numbers("seed", "A whole number from 0 on, or several with commas.") : [];
  if (seeds.length) request.seed = seeds.length > 1 ? seeds : successors(seeds[0], request);
  return request;
}

/** A seed for each picture, from one on: as the server chooses them. */
export function successors(seed, request) {
  const pictures = request.batch_size ?? Math.max(1, request.class?.length ?? 0);
  return Array.from({ length: pictures }, (_, i) => seed + i);
}

/** A seed that all programs can show. */
export const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** Shows seeds, and whether they are kept. */
export function showSeed(seeds, keep) {
  const inARow = seeds.every((seed, i) => seed === seeds[0] + i);
  $("seed").value = inARow ? seeds[0] ?? "" : seeds.join(", ");
  keepSeed(keep);
}

export function keepSeed(keep) {
  $("lock").setAttribute("aria-pressed", String(keep));
}

/**
 * Puts a request's values into the fields. What has no field is kept, and shown. Returns sentences about what cannot be
 * kept.
 */
export function fill(request) {
  const remarks = [];
  if (server.models.some((one) => one.name === request.model && !one.error)) $("model").value = request.model;
  showModel();
  const defaults = model().defaults;
  const rest = { ...request };
  const take = (field) => {
    const value = rest[field];
    delete rest[field];
    return value;
  };
  take("model");
  for (const field of ["prompt", "negative_prompt"]) {
    const [text = "", ...more] = [take(field) ?? []].flat();
    $(field).value = text;
    if (more.length) remarks.push(`Of several texts, the first is the ${words(field)} here.`);
  }
  $("class").value = (take("class") ?? []).join(", ");
  for (const field of Object.keys(NUMBERS)) $(field).value = [take(field) ?? ""].flat()[0] ?? "";
  fillScheduler(take("scheduler") ?? "");
  const seeds = take("seed") ?? [];
  const exact = seeds.every(Number.isSafeInteger);
  showSeed(exact ? seeds : [], exact);
  if (!exact) remarks.push("Its seed is larger than a browser can count.");
  clearLoras();
  fillLoras(take("lora") ?? []);
  const start = { image: take("image"), mask: take("mask") };
  fillStart(start);
  if (start.image && !start.image.startsWith("data:")) {
    ["mask_reading", "strength"].forEach(take);
    $("strength").value = "";
    remarks.push("It began with a picture, which it does not hold.");
  }
  others = Object.fromEntries(Object.entries(rest).filter(([field, value]) =>
    value !== null && JSON.stringify(value) !== JSON.stringify(defaults[field])));
  showOthers();
  return remarks;
}

function fillScheduler(name) {
  const lower = name.toLowerCase();
  const schedule = server.schedules.find((one) => lower.endsWith(` ${one.toLowerCase()}`)) ?? "";
  const sampler = schedule ? lower.slice(0, -schedule.length - 1) : lower;
  const known = server.samplers.find((one) => one.toLowerCase() === sampler);
  // Another name of a sampler, or a class of diffusers, is a choice of its own.
  if (name && !known) $("scheduler").append(make("option", { value: name }, plain(name)));
  $("scheduler").value = known ?? name;
  showSchedule();
  $("schedule").value = known ? schedule : "";
}

function showOthers() {
  $("with-others").hidden = Object.keys(others).length === 0;
  $("others").replaceChildren(...Object.entries(others).map(([field, value]) => {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    const remove = () => {
      delete others[field];
      showOthers();
    };
    return make("li", {}, make("button", { type: "button", onclick: remove, title: "Leave it out",
      "aria-label": `Leave out ${words(field)} ${text}` }, `${words(field)} ${text} ×`));
  }));
}

/** Forgets settings that belong to another model. */
export function forgetOthers() {
  others = {};
  showOthers();
}

/** A field's name for people. */
export const words = (field) => field.replaceAll("_", " ");
