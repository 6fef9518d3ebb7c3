// The result: the picture while it is made, and when it is done.

const $ = (id) => document.getElementById(id);
// The picture that was made last: { url, alt, caption, file, name }; the address of an unfinished one.
let made = null, unfinished = null;

function put(url, alt) {
  $('picture').src = url;
  $('picture').alt = alt;
  $('result').hidden = false;
  $('empty').hidden = true;
  return $('picture').decode().then(() => {
    $('picture').classList.toggle('small', $('picture').naturalWidth <= 256);
  });
}

// Shows a picture that is not done.
export function showUnfinished(png, alt) {
  const before = unfinished;
  unfinished = URL.createObjectURL(new Blob([png], { type: 'image/png' }));
  $('caption').parentElement.hidden = true;
  // The next one may come before this one is shown.
  put(unfinished, alt).catch(() => {}).finally(() => { if (before) URL.revokeObjectURL(before); });
}

// Puts back what was there before a run that made nothing.
export async function restore() {
  if (!unfinished) return;
  if (made) await showMade();
  else forgetUnfinished();
  $('result').hidden = !made;
  $('empty').hidden = !!made;
}

function forgetUnfinished() {
  if (unfinished) URL.revokeObjectURL(unfinished);
  unfinished = null;
}

async function showMade() {
  const { url, alt, caption, name } = made;
  await put(url, alt);
  forgetUnfinished();
  $('caption').textContent = caption;
  $('caption').parentElement.hidden = false;
  $('download').href = url;
  $('download').download = name;
}

// Shows a picture that is done, which can be downloaded as `name`.
export async function showPicture(png, { alt, caption, name }) {
  if (made) URL.revokeObjectURL(made.url);
  const file = new File([png], name, { type: 'image/png' });
  made = { url: URL.createObjectURL(file), alt, caption, name, file };
  await showMade();
}

// The file of the picture that was made last.
export const lastMade = () => made.file;
