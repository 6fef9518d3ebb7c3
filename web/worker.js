// Runs the engine away from the page, which stays responsive. The page sends { id, ask, ... }; the worker answers
// { id, answer } or { id, error: { kind, field, message } }, and in between says { note }, { progress } and
// { preview }.
import { Unsupported, startEngine, whyNot } from './engine.js';

let engine = null, starting = null;

const say = (kind, value) => postMessage({ [kind]: value });

function start() {
  starting ??= startEngine({ say }).then((started) => { engine = started; });
  return starting;
}

const asks = {
  whyNot: () => whyNot(),
  async start() { await start(); return engine.account; },
  async open({ files, path }) {
    await start();
    engine.setFiles(files);
    return engine.describe(path);
  },
  sample: ({ request, pictures, previews }) => engine.sample(request, { pictures, previews }),
  run: ({ request, inputs }) => engine.run(request, inputs),
  // For tests: as a driver that gives up.
  lose() { engine.device.destroy(); },
};

onmessage = async ({ data: { id, ask, ...rest } }) => {
  if (ask === 'cancel') return engine?.cancel();
  try {
    const answer = await asks[ask](rest);
    postMessage({ id, answer }, answer?.buffer ? [answer.buffer] : []);
  } catch (error) {
    const kind = error instanceof Unsupported ? 'unsupported' : error.kind ?? 'failed';
    postMessage({ id, error: { kind, field: error.field ?? null, message: error.message } });
  }
};
