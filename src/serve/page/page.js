// The page: what happens when something is pressed, dropped or typed.

import { $, say } from "./dom.js";
import { readSurely, settingsOf } from "./api.js";
import { clearErrors, showError } from "./errors.js";
import {
  anySeed, fill, forgetOthers, keepSeed, offer, request, showModel, showSchedule, showSeed, successors,
} from "./form.js";
import { download, shownPicture } from "./gallery.js";
import { takesPictures } from "./models.js";
import { cancel, isRunning, run } from "./run.js";
import { setUp as setUpStart, startFrom } from "./start.js";
import { setUp as setUpInside, showInside } from "./inside.js";
import { setUp as setUpTabs, openTab } from "./tabs.js";

/** How to scroll. */
const pace = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth");

/** Makes what the form says. */
async function makeOne(recorded = $("record").checked) {
  if (isRunning() || $("make").disabled) return null;
  clearErrors();
  let asked;
  try {
    asked = await request();
  } catch (failure) {
    openTab("make");
    showError(failure);
    return null;
  }
  if (!asked.seed) {
    asked.seed = successors(anySeed(), asked);
    showSeed(asked.seed, false);
  }
  return start(asked, recorded);
}

/** Makes a request's pictures, and shows them. */
async function start(asked, recorded) {
  const making = run(asked, recorded);
  // On a phone the picture is below the form, and a long form's end far below the picture.
  const { top, bottom } = $("frame").getBoundingClientRect();
  if (top > innerHeight / 2 || bottom < innerHeight / 3) $("stage").scrollIntoView({ behavior: pace() });
  const id = await making;
  if (id && recorded) await showInside(id);
  if (!id && document.querySelector("#form [aria-invalid]")) openTab("make");
  return id;
}

/** Reads the settings of a picture, or starts from it if it has none. */
async function take(file) {
  clearErrors();
  let reason;
  try {
    const { request: past } = await settingsOf(file);
    tell([`These are the settings of ${file.name || "the picture"}.`, ...fill(past)].join(" "));
    return;
  } catch (failure) {
    if (failure.code === "lost") return showError(failure);
    reason = failure.message;
  }
  if (!takesPictures()) return showError({ message: reason });
  try {
    await startFrom(file);
    tell(`${file.name || "The picture"} holds no settings: it is what to start from.`);
  } catch {
    showError({ message: reason });
  }
}

function tell(text) {
  $("about").textContent = text;
  say(text);
}

function setUpForm() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    makeOne();
  };
  $("cancel").onclick = cancel;
  $("model").onchange = () => {
    forgetOthers();
    showModel();
  };
  $("scheduler").onchange = showSchedule;
  $("seed").oninput = () => keepSeed($("seed").value.trim() !== "");
  $("dice").onclick = () => showSeed([anySeed()], true);
  $("lock").onclick = () => keepSeed($("lock").getAttribute("aria-pressed") !== "true");
  $("settings-file").onchange = () => {
    const [file] = $("settings-file").files;
    $("settings-file").value = "";
    if (file) take(file);
  };
}

function setUpResult() {
  $("again").onclick = () => {
    const { request: asked } = shownPicture();
    start(asked, $("record").checked);
  };
  $("vary").onclick = () => {
    const { request: asked } = shownPicture();
    start({ ...asked, seed: successors(anySeed(), asked) }, $("record").checked);
  };
  $("use-settings").onclick = () => {
    fill(shownPicture().request);
    say("The settings are in the form");
    $("model").focus();
  };
  $("use-start").onclick = async () => {
    const { blob } = shownPicture();
    if (!takesPictures()) return showError({ message: "The chosen model cannot start from a picture." });
    await startFrom(new File([blob], "the picture", { type: blob.type }));
    $("start").scrollIntoView({ block: "nearest", behavior: pace() });
    $("mask").focus({ preventScroll: true });
  };
  $("look-inside").onclick = async () => {
    await showInside(shownPicture().job);
    openTab("inside");
  };
  $("record-now").onclick = async () => {
    $("record").checked = true;
    openTab("make");
    if (await makeOne(true)) openTab("inside");
  };
  for (const button of document.querySelectorAll("[data-format]")) {
    button.onclick = () => download(button.dataset.format);
  }
}

function setUpKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      makeOne();
    } else if (event.key === "Escape" && isRunning()) {
      event.preventDefault();
      cancel();
    }
  });
}

function setUpDrops() {
  const hasFile = (event) => [...event.dataTransfer.items].some((item) => item.kind === "file");
  const over = (shows) => ($("over").hidden = !shows);
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    over(!event.target.closest?.("#start-drop"));
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
  addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    over(false);
    if (!file) return;
    event.preventDefault();
    if (!event.target.closest?.("#start-drop")) return take(file);
    await startFrom(file).catch(showError);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file?.type.startsWith("image/") || !takesPictures()) return;
    event.preventDefault();
    startFrom(file).catch(showError);
  });
}

setUpTabs();
offer(await readSurely("v1/server"));
setUpStart();
setUpForm();
setUpResult();
setUpKeys();
setUpDrops();
setUpInside();
$("make").disabled = false;
document.documentElement.dataset.ready = "true";
