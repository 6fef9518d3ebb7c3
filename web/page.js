// The page: its form, the models that lie beside it or that the visitor opens, and the worker that runs the engine.

import { lastMade, restore, showPicture, showUnfinished } from './result.js';
import { fitSize, setUpStart, startFrom, startOf, suitStart, takesPictures } from './start.js';

const $ = (id) => document.getElementById(id);
const OWN = 'own';
let models = [], worker = null, asked = new Map(), nextId = 1;
// What is open in the engine: { key, path, facts }; what the visitor gave: { path, files }.
let open = null, given = null, busy = false, cancelled = false;
// Unfinished pictures that are shown at most: with small models, one costs more than a step.
const PREVIEWS = 10;

// The worker.

function ask(what, values = {}) {
  worker ??= startWorker();
  return new Promise((resolve, reject) => {
    asked.set(nextId, { resolve, reject });
    worker.postMessage({ id: nextId++, ask: what, ...values });
  });
}

function startWorker() {
  const started = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
  started.onmessage = ({ data }) => {
    if (data.note) note(data.note);
    if (data.progress) showSteps(data.progress);
    if (data.preview && !cancelled) showUnfinished(data.preview, `The picture after ${step}`);
    const waiting = asked.get(data.id);
    if (!waiting) return;
    asked.delete(data.id);
    if (data.error) waiting.reject(data.error); else waiting.resolve(data.answer);
  };
  started.onerror = (event) => {
    event.preventDefault();
    stopWorker(event.message || 'its files could not be loaded');
  };
  return started;
}

// After a failure a new worker begins with a new device.
function stopWorker(why) {
  worker?.terminate();
  worker = null;
  open = null;
  for (const { reject } of asked.values()) reject({ kind: 'failed', message: `The engine has stopped: ${why}` });
  asked.clear();
}

// What the visitor sees.

function status(text) { $('status').textContent = text; }

let notes = [];
function note(text) { notes.push(text); }

function bar(done, total) {
  $('progress').hidden = false;
  if (total) { $('progress').max = total; $('progress').value = done; } else $('progress').removeAttribute('value');
}

let firstStep = 0, step = '';
function showSteps({ done, total }) {
  if (cancelled) return;
  bar(done, total);
  if (done === 0) return status('Getting ready …');
  // The first step may include compiling; the time left is worked out from the others.
  if (done === 1) firstStep = performance.now();
  const left = done > 1 ? (performance.now() - firstStep) / (done - 1) * (total - done) / 1000 : NaN;
  const about = left >= 100 ? `${Math.round(left / 60)} min` : `${Math.round(left)} s`;
  step = `step ${done} of ${total}`;
  status(`S${step.slice(1)}` + (done === total ? ', last touches' : left >= 1 ? `, about ${about} left` : ''));
}

function clearProblems() {
  $('error').hidden = true;
  document.querySelectorAll('.problem').forEach((problem) => problem.remove());
  document.querySelectorAll('[aria-invalid]').forEach((field) => {
    field.removeAttribute('aria-invalid');
    field.removeAttribute('aria-describedby');
  });
}

// An error at the field that caused it, or below the progress bar.
function showError({ field, message }) {
  const place = field && document.querySelector(`[data-field="${CSS.escape(field)}"]`);
  if (!place || place.closest('[hidden]')) {
    $('error').textContent = message;
    $('error').hidden = false;
    return;
  }
  place.closest('details')?.setAttribute('open', '');
  const problem = Object.assign(document.createElement('p'), { className: 'problem', textContent: message });
  problem.id = `problem-${field}`;
  place.append(problem);
  const input = [...place.querySelectorAll('input, textarea, select')].find((one) => one.checkVisibility());
  if (!input) {
    problem.role = 'alert';
    return place.scrollIntoView({ block: 'nearest' });
  }
  input.setAttribute('aria-invalid', 'true');
  input.setAttribute('aria-describedby', problem.id);
  input.focus();
}

function setBusy(now) {
  busy = now;
  $('make').disabled = now || !ready();
  $('cancel').hidden = !now;
  $('cancel').disabled = false;
  $('progress').hidden = !now;
  $('model').disabled = now;
}

const chosen = () => models[$('model').value];
const ready = () => $('unsupported').hidden && (chosen() || given);

// Models.

// A file of the server; the whole, since the engine reads parts of it.
async function fetchFile(url, onBytes) {
  const answer = await fetch(url);
  if (!answer.ok) throw { kind: 'failed', message: `${url}: ${answer.status} ${answer.statusText}` };
  const parts = [];
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  return new Blob(parts);
}

async function filesOf(model) {
  const total = model.files.reduce((sum, [, bytes]) => sum + bytes, 0), mib = (n) => (n / 2 ** 20).toFixed(1);
  let done = 0;
  const seen = (bytes) => {
    done += bytes;
    bar(done, total);
    status(`Loading ${model.name}: ${mib(done)} of ${mib(total)} MiB`);
  };
  return Promise.all(model.files.map(async ([file, bytes]) => {
    const url = `models/${model.name}/${file}`;
    return { name: `${model.name}/${file}`, id: `${url} ${bytes}`, blob: await fetchFile(url, seen) };
  }));
}

const hasTokenizer = (files) => files.some(({ name }) => /(^|\/)(merges\.txt|tokenizer\.json)$/.test(name));

// Opens the chosen model in the engine, if it is not there yet.
async function openModel() {
  const model = chosen();
  const key = model ? model.name : given.key;
  if (open?.key === key) return open;
  open = null;
  bar(0, 0);
  const path = model ? model.name : given.path;
  let files = model ? await filesOf(model) : given.files;
  if (!hasTokenizer(files) && !model) {
    // A model in one file may need CLIP's own list; one without text does not.
    const list = await fetchFile('clip-merges.txt', () => {}).catch(() => null);
    if (list) files = [...files, { name: 'clip-merges.txt', id: 'clip-merges.txt', blob: list }];
  }
  status('Starting the engine …');
  const account = await ask('start');
  $('device').textContent = `Runs on ${account.name}.`;
  status('Opening the model …');
  const facts = await ask('open', { files, path });
  open = { key, path, facts };
  showFacts(facts);
  return open;
}

// Makes the form fit the model.
function showFacts(facts) {
  suitStart(facts);
  $('with-prompt').hidden = $('with-negative').hidden = !facts.text;
  $('with-class').hidden = facts.classes === null;
  for (const side of ['width', 'height']) {
    $(side).step = facts.multiple;
    $(side).placeholder = facts[side] ?? '';
  }
  $('steps').placeholder = facts.steps ?? '';
  $('guidance').placeholder = facts.guidance_scale ?? '';
  const names = chosen()?.classes ?? [];
  if (facts.classes !== null && $('class').length !== facts.classes) {
    $('class').replaceChildren(...Array.from({ length: facts.classes }, (_, i) => new Option(names[i] ?? i, i)));
  }
}

function chooseModel() {
  const model = chosen();
  clearProblems();
  $('own').hidden = !!model;
  $('about').textContent = model?.about ?? given?.about ?? '';
  for (const id of ['width', 'height', 'steps', 'guidance']) { $(id).value = ''; $(id).placeholder = ''; }
  $('class').replaceChildren();
  if (model) {
    showFacts(model.facts);
    if (model.prompt) $('prompt').value = model.prompt;
  } else {
    showFacts(given?.facts ?? { kind: 'text', text: true, classes: null, multiple: 8, width: null, height: null });
  }
  fitSize();
  $('make').disabled = busy || !ready();
}

// Takes the visitor's own files, { path, file }.
async function take(list) {
  const used = list.filter(({ path }) => /\.(json|txt|safetensors|gguf)$/i.test(path) && !/(^|\/)\./.test(path));
  const weights = used.filter(({ path }) => /\.(safetensors|gguf)$/i.test(path));
  clearProblems();
  if (weights.length === 0) {
    return showError({ field: 'model', message: 'There is no .safetensors or .gguf file among these.' });
  }
  const single = used.length === 1;
  const path = single ? used[0].path : used[0].path.split('/')[0];
  const id = ({ path: name, file }) => `${name} ${file.size} ${file.lastModified}`;
  const files = used.map((one) => ({ name: one.path, id: id(one), blob: one.file }));
  const bytes = used.reduce((sum, { file }) => sum + file.size, 0);
  given = { key: used.map(id).join('\n'), path, files, facts: null };
  given.about = `${path}: ${used.length} files, ${(bytes / 2 ** 20).toFixed(1)} MiB`;
  open = null;
  $('model').value = OWN;
  chooseModel();
  await working(async () => {
    given.facts = (await openModel()).facts;
    fitSize();
    status('The model is open.');
  });
}

async function fromDrop(items) {
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ path: entry.fullPath.replace(/^\//, ''), file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean)) await walk(entry);
  return found;
}

// Pictures.

// The request that the form makes, and the pictures that it names.
function request() {
  const { path, facts } = open, { fields, pictures } = startOf(), wish = { model: path, device: {}, ...fields };
  const number = (field, id, wrap = (value) => value) => {
    const { value, validity } = $(id);
    if (validity.badInput) throw { field, message: 'This is not a number.' };
    if (value !== '') wish[field] = wrap(Number(value));
  };
  const list = (value) => [value];
  if (facts.text) {
    wish.prompt = [$('prompt').value];
    if ($('negative').value.trim()) wish.negative_prompt = [$('negative').value];
  }
  if (facts.classes !== null) wish.class = [Number($('class').value)];
  number('width', 'width');
  number('height', 'height');
  number('steps', 'steps');
  number('guidance_scale', 'guidance', list);
  number('seed', 'seed', list);
  if (wish.image && !$('with-strength').hidden) number('strength', 'strength');
  const whole = { width: wish.width, height: wish.height, steps: wish.steps, seed: wish.seed?.[0] };
  for (const [field, value] of Object.entries(whole)) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 0)) {
      throw { field, message: 'Expected a whole number, 0 or more.' };
    }
  }
  if ($('scheduler').value) wish.scheduler = $('scheduler').value;
  if ($('memory').value) wish.device.max_memory = Number($('memory').value);
  wish.precision = $('precision').value;
  return { wish, pictures };
}

// Does something that takes a while, and shows what goes wrong.
async function working(work) {
  if (busy) return;
  clearProblems();
  notes = [];
  cancelled = false;
  setBusy(true);
  $('progress').scrollIntoView({ block: 'nearest' }); // on a phone it is below the form
  try {
    await work();
  } catch (error) {
    status(error.kind === 'cancelled' ? 'Cancelled.' : '');
    if (error.kind !== 'cancelled') showError({ field: error.field, message: error.message ?? String(error) });
    // A lost GPU does not come back by itself, and a failed engine neither.
    if (['device', 'failed', 'unsupported'].includes(error.kind)) stopWorker(error.message);
  } finally {
    await restore();
    setBusy(false);
  }
}

async function make() {
  const { facts } = await openModel();
  if (cancelled) throw { kind: 'cancelled' };
  const { wish, pictures } = request(), begun = performance.now();
  const png = await ask('sample', { request: wish, pictures, previews: $('previews').checked ? PREVIEWS : 0 });
  const shown = facts.text ? wish.prompt[0] : $('class').selectedOptions[0]?.textContent ?? '';
  const seed = wish.seed?.[0] ?? 0, name = (shown || 'picture').slice(0, 60).replace(/[^\p{L}\p{N}]+/gu, '-');
  await showPicture(png, {
    alt: shown || 'A picture without a prompt',
    caption: [shown, `seed ${seed}`].filter(Boolean).join(' · '),
    name: `${name}-${seed}.png`,
  });
  status([`Done in ${((performance.now() - begun) / 1000).toFixed(1)} s.`, ...notes].join(' '));
}

// Starts from a picture that the visitor gave.
async function start(file) {
  clearProblems();
  if (!takesPictures()) return showError({ message: 'The chosen model does not start from a picture.' });
  await startFrom(file).catch(showError);
}

// Events.

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (ready()) working(make);
});
$('cancel').addEventListener('click', () => {
  cancelled = true;
  $('cancel').disabled = true;
  status('Cancelling after this step …');
  worker?.postMessage({ ask: 'cancel' });
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && busy && !cancelled) $('cancel').click();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('form').requestSubmit();
});
$('dice').addEventListener('click', () => { $('seed').value = crypto.getRandomValues(new Uint32Array(1))[0]; });
$('model').addEventListener('change', chooseModel);
const fromInput = (event) => {
  const files = [...event.target.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  event.target.value = '';
  if (files.length) take(files);
};
$('folder').addEventListener('change', fromInput);
$('file').addEventListener('change', fromInput);
$('image').addEventListener('change', (event) => {
  const [file] = event.target.files;
  event.target.value = '';
  if (file) start(file);
});
$('use-start').addEventListener('click', async () => {
  await start(lastMade());
  $('start').scrollIntoView({ block: 'nearest' });
});
addEventListener('paste', (event) => {
  const [file] = event.clipboardData.files;
  if (!file?.type.startsWith('image/')) return;
  event.preventDefault();
  start(file);
});
const over = (event) => {
  event.preventDefault();
  $('drop').classList.toggle('over', event.type === 'dragover');
};
addEventListener('dragover', over);
addEventListener('dragleave', over);
addEventListener('drop', async (event) => {
  over(event);
  const [file, more] = event.dataTransfer.files;
  if (!more && file?.type.startsWith('image/')) return start(file);
  if (!busy) await take(await fromDrop(event.dataTransfer.items));
});

// For tests, which lose the GPU on purpose.
window.ask = ask;

setUpStart();

// What lies beside the page, and whether the browser can run it.
const [list, why] = await Promise.all([
  fetch('models.json').then((answer) => answer.ok ? answer.json() : []).catch(() => []),
  ask('whyNot').catch((error) => error.message),
]);
models = Object.fromEntries(list.map((model) => [model.name, model]));
$('model').append(...list.map((model) => new Option(model.title, model.name)), new Option('your own …', OWN));
if (why) {
  $('unsupported').textContent = why;
  $('unsupported').hidden = false;
}
chooseModel();
