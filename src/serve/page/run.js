// A run: from a request to pictures, with progress, previews and a way to stop it.

import { $, duration, say } from "./dom.js";
import { Failure, cancel as forget, create, follow } from "./api.js";
import { clearErrors, showError } from "./errors.js";
import { add, show, shownPicture } from "./gallery.js";

/** The job that runs. */
let job = null;
let stopping = false;

/** Whether something runs. */
export const isRunning = () => job !== null;

function showRunning(runs) {
  $("running").hidden = !runs;
  $("make").disabled = runs;
  for (const id of ["again", "vary", "record-now"]) $(id).disabled = runs;
  if (!runs) return;
  $("progress").removeAttribute("value");
  $("status").textContent = "Asking …";
  $("details").hidden = $("notes").hidden = true;
}

const on = {
  queued: ({ position }) => {
    $("status").textContent = position ? `Waiting: ${position} before this` : "Waiting";
  },
  step: ({ step, steps, seconds_left: left }) => {
    if (steps) $("progress").value = step / steps;
    const rest = step === steps ? "last touches" : left === null ? "" : `${duration(left)} left`;
    const text = step === 0 ? "Loading the model" : [`Step ${step} of ${steps}`, rest].filter(Boolean).join(" · ");
    $("status").textContent = text;
    // Every step would be too much to listen to.
    if (step > 0 && step < steps && Math.floor(4 * step / steps) > Math.floor(4 * (step - 1) / steps)) say(text);
  },
  preview: ({ step, image }) => {
    $("empty").hidden = true;
    $("shown").hidden = false;
    $("shown").src = image;
    $("shown").alt = `The picture after step ${step}`;
  },
};

/** Makes a request's pictures; returns the job's id if there are some. Errors are shown where they belong. */
export async function run(request, recorded) {
  if (isRunning()) return null;
  clearErrors();
  const before = shownPicture();
  job = { id: null };
  stopping = false;
  showRunning(true);
  say("Started");
  try {
    const { id } = await create(request, recorded);
    job.id = id;
    if (stopping) forget(id);
    // A preview costs as much as a step, with small models more: about ten are enough to watch.
    const every = Math.max(1, Math.round((request.steps ?? 25) / 10));
    const state = await follow(id, every, on);
    if (state.status === "failed") throw new Failure(state.error);
    if (state.status === "cancelled") throw new Failure({ message: "Cancelled.", code: "cancelled" });
    await add(state, request, recorded);
    say(state.pictures.length > 1 ? `${state.pictures.length} pictures are done` : "The picture is done");
    return id;
  } catch (failure) {
    const cancelled = stopping || failure.code === "cancelled";
    restore(before);
    if (cancelled) say("Cancelled");
    else if (failure.code === "no_job") showError({ message: "The server has forgotten the job." });
    else showError(failure);
    return null;
  } finally {
    job = null;
    showRunning(false);
  }
}

/** Shows again what was shown before. */
function restore(picture) {
  if (picture) return show(picture);
  $("shown").hidden = true;
  $("shown").removeAttribute("src");
  $("empty").hidden = false;
}

/** Stops what runs. */
export function cancel() {
  if (!job || stopping) return;
  stopping = true;
  $("status").textContent = "Stopping …";
  if (job.id) forget(job.id);
}
