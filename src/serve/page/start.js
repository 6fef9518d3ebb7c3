// A picture to start from, and what of it shall change.

import { $, dataUrl } from "./dom.js";
import { Brush } from "./brush.js";
import { Failure } from "./api.js";
import { showError } from "./errors.js";
import { model, server } from "./models.js";

/** What is sent: the file as it came, unless the server would not read it. */
let image = null;
let brush = null;

/** Prepares the controls. */
export function setUp() {
  brush = new Brush($("mask"), {
    size: () => Number($("brush").value) / 100,
    erases: () => $("eraser").getAttribute("aria-pressed") === "true",
    changed: (undoable, painted) => {
      $("undo").disabled = !undoable;
      $("clear").disabled = !painted;
      $("start-state").textContent = image ? (painted ? "with a mask" : "in use") : "";
      $("strength").placeholder = model().defaults.strength ?? (painted ? "1" : "0.8");
    },
  });
  $("eraser").onclick = () => {
    const erases = $("eraser").getAttribute("aria-pressed") === "true";
    $("eraser").setAttribute("aria-pressed", String(!erases));
  };
  $("undo").onclick = () => brush.undo();
  $("clear").onclick = () => brush.clear();
  $("remove-image").onclick = () => {
    fillStart({});
    for (const field of ["width", "height"]) $(field).value = "";
    $("image").focus();
  };
  $("image").onchange = async () => {
    const [file] = $("image").files;
    $("image").value = "";
    if (file) await startFrom(file).catch(showError);
  };
  $("original").addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = $("original");
    $("easel").classList.toggle("small", width <= 128);
    brush.resize(width, height);
  });
}

/** Starts from a picture's file, in about the model's own size. Throws a `Failure` if it is none. */
export async function startFrom(file) {
  try {
    image = await readable(file);
  } catch {
    const message = `${file.name || "This"} is not a picture that this browser can read.`;
    throw new Failure({ field: "image", message });
  }
  await show();
  fitSize();
  $("start").open = true;
}

/** A picture as the server reads it: PNG, JPEG or WebP, of not too many pixels. */
async function readable(file) {
  const picture = await createImageBitmap(file);
  const shrink = Math.min(1, Math.sqrt(server.limits.pixels / (picture.width * picture.height)));
  if (shrink === 1 && /^image\/(png|jpeg|webp)$/.test(file.type)) return dataUrl(file);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(picture.width * shrink));
  canvas.height = Math.max(1, Math.floor(picture.height * shrink));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

async function show() {
  $("painting").hidden = !image;
  $("start-drop").hidden = Boolean(image);
  if (image) {
    $("original").src = image;
    await $("original").decode();
    brush.resize($("original").naturalWidth, $("original").naturalHeight);
  } else {
    $("original").removeAttribute("src");
    brush.resize(1, 1);
  }
}

/** Sides near the picture's own shape, with about as many pixels as the model was made for. */
function fitSize() {
  const { defaults, multiple, kind } = model();
  if (!defaults.width || ["upscale", "super_resolution"].includes(kind)) return;
  const ratio = $("original").naturalWidth / $("original").naturalHeight;
  const round = (side) => Math.max(multiple, Math.round(side / multiple) * multiple);
  const area = defaults.width * defaults.height;
  $("width").value = round(Math.sqrt(area * ratio));
  $("height").value = round(Math.sqrt(area / ratio));
}

/** What a request says of the picture: nothing, `image`, or also `mask`. */
export async function startOf() {
  if (!image) return {};
  const mask = brush.picture();
  return mask ? { image, mask, mask_reading: "auto" } : { image };
}

/** Puts back what a request had. Names of files, as settings have them, are no pictures. */
export async function fillStart({ image: url, mask }) {
  image = url?.startsWith("data:") ? url : null;
  await show();
  if (image && mask?.startsWith("data:")) await brush.load(mask);
}
