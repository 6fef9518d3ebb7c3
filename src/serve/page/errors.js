// Errors at the fields that caused them.

import { $, make } from "./dom.js";

const fieldOf = (name) => document.querySelector(`[data-field="${name}"]`);

/** Takes all errors away. */
export function clearErrors() {
  $("message").hidden = true;
  document.querySelectorAll("[data-field]").forEach(clearField);
}

function clearField(field) {
  field.querySelector(".problem")?.remove();
  const control = field.querySelector("[aria-invalid]");
  control?.removeAttribute("aria-invalid");
  control?.removeAttribute("aria-errormessage");
}

/** Shows an error at its field, and goes there; or, if it has none here, beside the result. */
export function showError({ message, field }) {
  const place = field && fieldOf(field);
  if (!place || place.hidden || place.closest("[hidden]")) {
    $("message").textContent = message;
    $("message").hidden = false;
    return;
  }
  clearField(place);
  const id = `problem-${field}`;
  place.append(make("p", { class: "problem", id, role: "alert" }, message));
  const folded = place.closest("details");
  if (folded) folded.open = true;
  const control = place.querySelector("input, select, textarea, canvas, button");
  control?.setAttribute("aria-invalid", "true");
  control?.setAttribute("aria-errormessage", id);
  control?.focus();
}

// What is changed is not known to be wrong any more.
document.addEventListener("input", (event) => {
  const field = event.target.closest?.("[data-field]");
  if (field) clearField(field);
});
