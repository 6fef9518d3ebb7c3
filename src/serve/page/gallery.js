// What this session made: the picture that is shown, its settings, and all others.

import { $, make, say, sharpen } from "./dom.js";
import { ask, askSurely } from "./api.js";
import { showError } from "./errors.js";
import { words } from "./form.js";

/** The settings that are looked for first. */
const FIRST = ["prompt", "negative_prompt", "class", "model", "seed", "steps", "scheduler", "guidance_scale", "width",
  "height"];
/** Every picture: {url, blob, seed, request, settings, notes, job, index, seconds, recorded}. */
const pictures = [];
let current = null;

sharpen($("shown"));

/** The picture that is shown; null if there is none. */
export const shownPicture = () => current;

/** Takes a finished job's pictures, and shows the first. */
export async function add(state, request, recorded) {
  const made = await Promise.all(state.pictures.map(async ({ seed }, index) => {
    // The server forgets jobs; the page keeps its pictures.
    const blob = await (await askSurely(`v1/jobs/${state.id}/pictures/${index}`)).blob();
    const { settings, notes, seconds, id: job } = state;
    return { url: URL.createObjectURL(blob), blob, seed, request, settings, notes, seconds, job, index, recorded };
  }));
  pictures.push(...made);
  for (const picture of made) {
    const name = nameOf(picture);
    const button = make("button", { type: "button", title: name, "aria-label": name, onclick: () => show(picture) },
      make("img", { src: picture.url, alt: "" }));
    sharpen(button.firstChild);
    picture.thumbnail = button;
    $("gallery").prepend(make("li", {}, button));
  }
  $("made").hidden = pictures.length < 2;
  show(made[0]);
}

/** What a picture is called: its prompt or class, and its seed. */
function nameOf({ settings, seed, index }) {
  const prompt = [settings.prompt ?? []].flat();
  const classes = [settings.class ?? []].flat();
  const text = prompt.length ? prompt[index % prompt.length] : classes.length
    ? `class ${classes[index % classes.length]}` : "picture";
  return `${text || "no prompt"}, seed ${seed}`;
}

/** Shows a picture with its settings. */
export function show(picture) {
  current = picture;
  $("empty").hidden = true;
  $("shown").hidden = false;
  $("shown").src = picture.url;
  $("shown").alt = nameOf(picture);
  $("details").hidden = false;
  $("look-inside").hidden = !picture.recorded;
  $("as-png").href = picture.url;
  $("as-png").download = fileName(picture, "png");
  $("notes").hidden = picture.notes.length === 0;
  $("notes").replaceChildren(...picture.notes.map((note) => make("p", {}, note)));
  const first = Object.fromEntries(FIRST.map((field) => [field, null]));
  const rows = { ...first, ...picture.settings, seed: picture.seed, seconds: Math.round(picture.seconds * 10) / 10 };
  const given = Object.entries(rows).filter(([, value]) => value !== null);
  $("settings").replaceChildren(...given.flatMap(([field, value]) =>
    [make("dt", {}, words(field)), make("dd", {}, [value].flat().join("\n"))]));
  for (const { thumbnail } of pictures) {
    if (thumbnail === picture.thumbnail) thumbnail.setAttribute("aria-current", "true");
    else thumbnail.removeAttribute("aria-current");
  }
}

function fileName(picture, ending) {
  const name = nameOf(picture).replace(/, seed.*/, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${name.slice(0, 60) || "picture"}-${picture.seed}.${ending}`;
}

/** Saves the picture in another format, which the server writes. */
export async function download(format) {
  const picture = current;
  try {
    const path = `v1/jobs/${picture.job}/pictures/${picture.index}?format=${format}`;
    const url = URL.createObjectURL(await (await ask(path)).blob());
    make("a", { href: url, download: fileName(picture, format === "jpeg" ? "jpg" : format) }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    say(`Saved as ${format.toUpperCase()}`);
  } catch (failure) {
    const gone = "The server has forgotten this picture; it can still be saved as PNG.";
    showError({ message: failure.code === "no_job" ? gone : failure.message });
  }
}
