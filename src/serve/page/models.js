// What the server has, and the model that is chosen.

import { $ } from "./dom.js";

/** The server's models, samplers, LoRAs and limits. */
export let server;

/** Keeps what the server says of itself. */
export function know(answer) {
  server = answer;
}

/** The chosen model's facts. */
export const model = () => server.models.find((model) => model.name === $("model").value);

/** Whether the chosen model can begin with a picture. */
export const takesPictures = () => !["classes", "pixels"].includes(model().kind);
