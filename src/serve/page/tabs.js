// Two views, one at a time.

import { $ } from "./dom.js";

const NAMES = ["make", "inside"];

/** Opens a view. */
export function openTab(name) {
  for (const one of NAMES) {
    const open = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", String(open));
    $(`tab-${one}`).tabIndex = open ? 0 : -1;
    $(`view-${one}`).hidden = !open;
  }
}

/** Prepares the tabs: arrows go from one to the other. */
export function setUp() {
  NAMES.forEach((name, i) => {
    $(`tab-${name}`).onclick = () => openTab(name);
    $(`tab-${name}`).onkeydown = (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      event.preventDefault();
      const other = NAMES[(i + 1) % NAMES.length];
      openTab(other);
      $(`tab-${other}`).focus();
    };
  });
}
