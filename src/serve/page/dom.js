// Small helpers around the document.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element: `make("li", {class: "now", onclick: …}, child, "text")`. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element[key] = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Tells those who cannot see the page what happens. */
export function say(text) {
  $("said").textContent = text;
}

/** Seconds in words. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 1) return "less than a second";
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A file or blob as a `data:` URL. */
export function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Small pictures are shown with their pixels. */
export function sharpen(image) {
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128));
}
