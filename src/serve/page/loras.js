// LoRAs: which ones, and how strongly.

import { $, make } from "./dom.js";
import { Failure } from "./api.js";

/** Offers these. */
export function offerLoras(names) {
  $("networks").hidden = names.length === 0;
  $("loras").replaceChildren(...names.map((name, i) => {
    const use = make("input", { type: "checkbox", id: `lora-${i}`, onchange: showCount });
    const scale = make("input", {
      type: "number", step: "any", inputmode: "decimal", placeholder: "1", "aria-label": `Scale of ${name}`,
      // A scale for one that is not used makes no sense.
      oninput: () => {
        use.checked = true;
        showCount();
      },
    });
    return make("div", { class: "lora", "data-name": name }, use, make("label", { for: `lora-${i}` }, name), scale);
  }));
}

const rows = () => [...$("loras").children].map((row) => {
  const [use, , scale] = row.children;
  return { name: row.dataset.name, use, scale };
});

function showCount() {
  const used = rows().filter(({ use }) => use.checked).length;
  $("loras-state").textContent = used ? `${used} in use` : "";
}

/** Those in use, as a request has them: `name:scale`. */
export function lorasOf() {
  return rows().filter(({ use }) => use.checked).map(({ name, scale }) => {
    if (scale.validity.badInput) throw new Failure({ field: "lora", message: `${name}: the scale is not a number.` });
    return scale.value === "" ? name : `${name}:${scale.value}`;
  });
}

/** Uses none. */
export function clearLoras() {
  rows().forEach(({ use, scale }) => {
    use.checked = false;
    scale.value = "";
  });
  showCount();
}

/** Uses those of a request that are here. */
export function fillLoras(loras) {
  for (const lora of loras) {
    const [name, ...scales] = lora.split(":");
    const row = rows().find((row) => row.name === name);
    if (row) {
      row.use.checked = true;
      row.scale.value = scales[0] ?? "";
    }
  }
  $("networks").open = loras.length > 0;
  showCount();
}
