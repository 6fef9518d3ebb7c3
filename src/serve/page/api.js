// What the page asks of its server, and what it does when the server does not answer.

import { $ } from "./dom.js";

/** What the server said went wrong: a message, and the field at fault if it is one. */
export class Failure extends Error {
  constructor({ message, field, code }) {
    super(message);
    this.field = field;
    this.code = code;
  }
}

const LOST = "The server does not answer. This page tries again by itself.";
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
let returning = null;

/** Shows that the server is away, and waits until it is back. */
export function untilBack() {
  returning ??= (async () => {
    $("lost").textContent = LOST;
    $("lost").hidden = false;
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      await pause(wait);
      if (await fetch("health/live").then((answer) => answer.ok, () => false)) break;
    }
    $("lost").hidden = true;
    returning = null;
  })();
  return returning;
}

/** An answer of the server. Throws a `Failure` with what it says, also if it says nothing. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    untilBack();
    throw new Failure({ message: "The server does not answer.", code: "lost" });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Failure(body.error ?? { message: `The server answered ${answer.status}.`, code: "unknown" });
}

/** An answer of the server, asked for as often as it takes to get one. */
export async function askSurely(path) {
  for (;;) {
    try {
      return await ask(path);
    } catch (failure) {
      if (failure.code !== "lost") throw failure;
      await untilBack();
    }
  }
}

/** JSON that the server answers, asked for as often as it takes to get it. */
export const readSurely = async (path) => (await askSurely(path)).json();

/** Asks for a job; its state. */
export async function create(request, inside) {
  const headers = { "content-type": "application/json" };
  const answer = await ask(`v1/jobs${inside ? "?inside=true" : ""}`, {
    method: "POST", headers, body: JSON.stringify(request),
  });
  return answer.json();
}

/** Stops a job. Whether the server heard of it shows in the job's events. */
export const cancel = (id) => fetch(`v1/jobs/${id}`, { method: "DELETE" }).catch(() => {});

/** The settings that a picture remembers, as a request; with notes. */
export async function settingsOf(file) {
  const type = /^image\/(png|jpeg|webp)$/.test(file.type) ? file.type : "application/octet-stream";
  return (await ask("v1/settings", { method: "POST", headers: { "content-type": type }, body: file })).json();
}

/**
 * Follows a job to its end, and returns its last state. `on` has functions for the events `queued`, `step` and
 * `preview`. When the connection breaks, the job goes on: its state is asked for, and its events again.
 */
export async function follow(id, previewEvery, on) {
  for (;;) {
    const ended = await events(id, previewEvery, on);
    if (ended) return ended;
    await pause(500);
    const state = await readSurely(`v1/jobs/${id}`);
    if (!["queued", "running"].includes(state.status)) return state;
  }
}

/** A job's events: its last state, or null if the connection broke. */
function events(id, previewEvery, on) {
  return new Promise((done) => {
    const source = new EventSource(`v1/jobs/${id}/events?preview_every=${previewEvery}`);
    const end = (state) => {
      source.close();
      done(state);
    };
    for (const name of ["queued", "step", "preview"]) {
      source.addEventListener(name, (event) => on[name](JSON.parse(event.data)));
    }
    for (const name of ["finished", "failed", "cancelled"]) {
      source.addEventListener(name, (event) => end(JSON.parse(event.data)));
    }
    source.onerror = () => end(null);
  });
}
