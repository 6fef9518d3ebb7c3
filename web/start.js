// A picture to start from, and what of it shall change: what a request has as `image` and `mask`.

import { Brush } from './brush.js'; // the server's page has the same: src/serve/page

const $ = (id) => document.getElementById(id);
// What the engine reads: of at most so many pixels, files that begin like this.
const MOST_PIXELS = 22e6;
const KNOWN = [/^\x89PNG/, /^\xff\xd8\xff/, /^RIFF[^]{4}WEBP/];
const PICTURES = ['text', 'inpaint', 'edit', 'upscale', 'super_resolution'], MASKS = ['text', 'inpaint'];

// The picture: { name, blob }, and the model's facts.
let picture = null, facts = { kind: 'pixels' }, link = null, brush = null;

export const takesPictures = () => PICTURES.includes(facts.kind);
const takesMasks = () => MASKS.includes(facts.kind);

export function setUpStart() {
  brush = new Brush($('mask'), {
    size: () => Number($('brush').value) / 100,
    erases: () => $('eraser').getAttribute('aria-pressed') === 'true',
    changed: (undoable, painted) => {
      $('undo').disabled = !undoable;
      $('clear').disabled = !painted;
      $('start-state').textContent = picture ? (painted ? 'with a mask' : 'in use') : '';
      $('strength').placeholder = painted ? '1' : '0.8';
    },
  });
  $('eraser').addEventListener('click', () => {
    $('eraser').setAttribute('aria-pressed', $('eraser').getAttribute('aria-pressed') !== 'true');
  });
  $('undo').addEventListener('click', () => brush.undo());
  $('clear').addEventListener('click', () => brush.clear());
  $('remove-image').addEventListener('click', () => {
    picture = null;
    show();
    for (const side of ['width', 'height']) $(side).value = '';
    $('image').focus();
  });
}

// Makes the controls fit a model, which works on pictures in its own way or on none.
export function suitStart(model) {
  facts = model;
  $('start').hidden = !takesPictures();
  for (const id of ['mask', 'mask-help', 'brushes', 'with-strength']) $(id).hidden = !takesMasks();
  // Models for these begin with a picture.
  if (['inpaint', 'edit', 'upscale', 'super_resolution'].includes(facts.kind)) $('start').open = true;
}

// Starts from a picture's file. Throws { field, message } if it is none.
export async function startFrom(file) {
  try {
    picture = await readable(file);
  } catch {
    throw { field: 'image', message: `${file.name || 'This'} is not a picture that this browser can read.` };
  }
  await show();
  fitSize();
  $('start').open = true;
}

// A picture as the engine reads it; its bytes are kept, so that a file that changes later is no trouble.
async function readable(file) {
  const bytes = await file.arrayBuffer(), blob = new Blob([bytes], { type: file.type });
  const bitmap = await createImageBitmap(blob), { width, height } = bitmap;
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const begin = String.fromCharCode(...new Uint8Array(bytes.slice(0, 12)));
  const stem = (file.name || 'picture').replace(/\.[^.]*$/, '');
  if (shrink === 1 && KNOWN.some((kind) => kind.test(begin))) return { name: file.name || stem, stem, blob };
  const canvas = new OffscreenCanvas(Math.max(1, Math.floor(width * shrink)), Math.max(1, Math.floor(height * shrink)));
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return { name: `${stem}.png`, stem, blob: await canvas.convertToBlob({ type: 'image/png' }) };
}

async function show() {
  if (link) URL.revokeObjectURL(link);
  link = picture && URL.createObjectURL(picture.blob);
  $('painting').hidden = !picture;
  $('start-drop').hidden = !!picture;
  brush.resize(1, 1);
  if (!picture) return $('original').removeAttribute('src');
  $('original').src = link;
  await $('original').decode();
  const { naturalWidth: width, naturalHeight: height } = $('original');
  $('easel').classList.toggle('small', width <= 256);
  brush.resize(width, height);
}

// Sides near the picture's own shape, with about as many pixels as the model was made for.
export function fitSize() {
  if (!picture || !takesPictures() || !facts.width || ['upscale', 'super_resolution'].includes(facts.kind)) return;
  const ratio = $('original').naturalWidth / $('original').naturalHeight, area = facts.width * facts.height;
  const round = (side) => Math.max(1, Math.round(side / facts.multiple)) * facts.multiple;
  $('width').value = round(Math.sqrt(area * ratio));
  $('height').value = round(Math.sqrt(area / ratio));
}

// What a request says of the picture, and the files that it names.
export function startOf() {
  if (!picture || !takesPictures()) return { fields: {}, pictures: [] };
  const { name, stem, blob } = picture, mask = takesMasks() ? brush.picture() : null;
  const image = { fields: { image: name }, pictures: [{ name, blob }] };
  if (!mask) return image;
  const bytes = Uint8Array.from(atob(mask.split(',')[1]), (char) => char.charCodeAt(0));
  const own = `${stem}-mask.png`;
  return {
    fields: { ...image.fields, mask: own },
    pictures: [...image.pictures, { name: own, blob: new Blob([bytes], { type: 'image/png' }) }],
  };
}
