// The device that the engine runs on: WebGPU buffers, kernels and launches, by numbers that the engine chooses, and the
// page's files. Everything else is unmist.wasm. For a worker: files are read there at once (FileReaderSync).

// What `wait`, `read_buffer`, `compile`, `check` and `read_file` return: src/web/host.rs.
const OK = 0, NO_MEMORY = 1, NO_KERNEL = 2, NO_DEVICE = 3;

// Limits that kernels and plans ask about, by their names in the engine.
const LIMITS = {
  max_storage_buffer_binding_size: 'maxStorageBufferBindingSize',
  max_buffer_size: 'maxBufferSize',
  max_compute_workgroup_storage_size: 'maxComputeWorkgroupStorageSize',
  max_compute_invocations_per_workgroup: 'maxComputeInvocationsPerWorkgroup',
  max_compute_workgroups_per_dimension: 'maxComputeWorkgroupsPerDimension',
  max_storage_buffers_per_shader_stage: 'maxStorageBuffersPerShaderStage',
};

export class Unsupported extends Error {}

// Why the engine cannot run in this browser, in a sentence; null if it can.
export async function whyNot() {
  if (!isSecureContext) {
    return 'Browsers offer the GPU only to pages from https:// or from this computer (http://127.0.0.1).';
  }
  if (!navigator.gpu) {
    return 'This browser has no WebGPU. Chrome and Edge have it from version 113 on, Safari from 26, Firefox ' +
      'from 141 on Windows.';
  }
  if (!('Suspending' in WebAssembly)) {
    return 'This browser has WebGPU, but not yet JavaScript Promise Integration (JSPI), with which the engine waits ' +
      'for the GPU. Chrome and Edge have it from version 137 on, Firefox from 153, Safari from 27.';
  }
  if (!await navigator.gpu.requestAdapter()) {
    return 'The browser offers no GPU. Its settings may have hardware acceleration switched off, or it does not ' +
      'trust this GPU’s driver (see chrome://gpu).';
  }
  return null;
}

// The adapter's device, with all that kernels may use, and the engine's account of it.
async function openDevice() {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw new Unsupported(await whyNot());
  const has = (name) => adapter.features.has(name);
  const requiredFeatures = ['shader-f16', 'subgroups'].filter(has);
  const requiredLimits = {};
  for (const name of Object.values(LIMITS)) requiredLimits[name] = adapter.limits[name];
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  const info = adapter.info;
  const account = {
    name: info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(' ') || 'a GPU',
    vendor: info.vendor ?? '',
    architecture: info.architecture ?? '',
    // Kernels for CPUs bind read-only storage textures, which are a feature of the language.
    is_fallback_adapter: !!(info.isFallbackAdapter ?? adapter.isFallbackAdapter) &&
      !!navigator.gpu.wgslLanguageFeatures?.has('readonly_and_readwrite_storage_textures'),
    f16: has('shader-f16'),
    subgroups: has('subgroups') && info.subgroupMinSize > 0,
    subgroup_min_size: info.subgroupMinSize ?? 0,
    subgroup_max_size: info.subgroupMaxSize ?? 0,
    // No browser says how much memory a GPU has. A CPU driver takes the computer's, of which others need some.
    memory: info.isFallbackAdapter && navigator.deviceMemory ? navigator.deviceMemory * 2 ** 29 : null,
  };
  for (const [name, limit] of Object.entries(LIMITS)) account[name] = device.limits[limit];
  return { device, account };
}

// The functions that the module imports. `memory()` is the module's memory, `file(n)` a Blob, `report(kind, bytes)`
// what the engine says.
function hostOf(device, memory, file, report) {
  const bytes = (start, length) => new Uint8Array(memory().buffer, start, length);
  const text = (start, length) => new TextDecoder().decode(bytes(start, length));
  const pipelines = new Map(), memories = new Map(), lists = new Map(), submissions = new Map();
  const reader = new FileReaderSync();
  let message = new Uint8Array();
  let lost = null, failed = null, full = null;
  let scopes = [];

  device.lost.then((info) => { lost = `the GPU was lost (${info.reason}): ${info.message}`; });
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault();
    // What is done with a buffer that there was no room for fails as well.
    if (!full) failed ??= event.error.message;
  });

  const say = (status, why) => { message = new TextEncoder().encode(why); return status; };
  const state = () => {
    if (lost) return say(NO_DEVICE, lost);
    if (full) { const why = full; full = null; return say(NO_MEMORY, why); }
    if (failed) return say(NO_DEVICE, failed);
    return OK;
  };
  // Out of memory is known once the scopes of all that was created have ended.
  const settled = async () => { const all = scopes; scopes = []; await Promise.all(all); };
  const create = (bytes, make) => {
    device.pushErrorScope('out-of-memory');
    let made = null;
    try { made = make(); } catch (error) { full ??= `${error.message} (${bytes} bytes)`; }
    scopes.push(device.popErrorScope().then((error) => {
      if (error) full ??= `the GPU has no room for ${(bytes / 2 ** 20).toFixed(1)} MiB more`;
    }, () => {}));
    return made;
  };

  const entry = ([binding, kind]) => {
    const [access, format] = kind.split(' ');
    const resource = format ? { storageTexture: { access, format } } : { buffer: { type: kind } };
    return { binding, visibility: GPUShaderStage.COMPUTE, ...resource };
  };
  const compile = async ({ number, label, code, bindings }) => {
    const layout = device.createBindGroupLayout({ label, entries: bindings.map(entry) });
    const module = device.createShaderModule({ label, code });
    const pipeline = await device.createComputePipelineAsync({
      label,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: 'main' },
    });
    pipelines.set(number, { pipeline, layout });
  };
  const bound = ([binding, number, size, offset = 0]) => {
    const resource = memories.get(number);
    return { binding, resource: size === undefined ? resource.createView() : { buffer: resource, offset, size } };
  };

  return {
    now: () => performance.now(),
    report: (kind, start, length) => report(kind, bytes(start, length).slice()),
    message_length: () => message.length,
    message: (out) => bytes(out, message.length).set(message),
    read_file(number, offset, out, length) {
      try {
        const part = reader.readAsArrayBuffer(file(number).slice(offset, offset + length));
        if (part.byteLength !== length) return say(NO_DEVICE, 'the file is shorter than it was');
        bytes(out, length).set(new Uint8Array(part));
        return OK;
      } catch (error) { return say(NO_DEVICE, error.message); }
    },
    compile: new WebAssembly.Suspending(async (start, length) => {
      const kernels = JSON.parse(text(start, length));
      const results = await Promise.allSettled(kernels.map(compile));
      const bad = results.findIndex((result) => result.status === 'rejected');
      if (bad < 0 || lost) return state();
      return say(NO_KERNEL, `${kernels[bad].label}: ${results[bad].reason.message}`);
    }),
    create_buffer(number, size, uniform, label, length) {
      const usage = GPUBufferUsage.COPY_DST | (uniform ? GPUBufferUsage.UNIFORM
        : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
      memories.set(number, create(size, () => device.createBuffer({ label: text(label, length), size, usage })));
    },
    create_texture(number, width, height, f16) {
      const format = f16 ? 'rgba16float' : 'rgba32float';
      const usage = GPUTextureUsage.STORAGE_BINDING;
      memories.set(number, create(width * height * (f16 ? 8 : 16),
        () => device.createTexture({ size: [width, height], format, usage })));
    },
    drop_memory(number) { memories.get(number)?.destroy(); memories.delete(number); },
    write_buffer(number, start, length) {
      const buffer = memories.get(number);
      if (buffer && length) device.queue.writeBuffer(buffer, 0, bytes(start, length));
    },
    create_list(number, start, length) {
      const { launches, copies } = JSON.parse(text(start, length));
      lists.set(number, {
        launches: full ? [] : launches.map(({ pipeline, workgroups, bindings }) => {
          const kernel = pipelines.get(pipeline);
          const group = device.createBindGroup({ layout: kernel.layout, entries: bindings.map(bound) });
          return { pipeline: kernel.pipeline, workgroups, group };
        }),
        copies: copies.map(([from, to, size]) => [memories.get(from), memories.get(to), size]),
        length: launches.length,
      });
    },
    drop_list(number) { lists.delete(number); },
    submit(number, first, count, submission) {
      const list = lists.get(number), encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (const { pipeline, workgroups, group } of list.launches.slice(first, first + count)) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
      }
      pass.end();
      if (first + count === list.length) {
        for (const [from, to, size] of list.copies) encoder.copyBufferToBuffer(from, 0, to, 0, size);
      }
      device.queue.submit([encoder.finish()]);
      submissions.set(submission, device.queue.onSubmittedWorkDone().catch(() => {}));
    },
    wait: new WebAssembly.Suspending(async (submission) => {
      const done = submission ? submissions.get(submission) : device.queue.onSubmittedWorkDone().catch(() => {});
      submissions.delete(submission);
      await Promise.race([Promise.all([settled(), done]), device.lost]);
      return state();
    }),
    read_buffer: new WebAssembly.Suspending(async (number, out, length) => {
      await settled();
      const wrong = state();
      if (wrong) return wrong;
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      const staging = device.createBuffer({ size: length, usage });
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(memories.get(number), 0, staging, 0, length);
      device.queue.submit([encoder.finish()]);
      try {
        await staging.mapAsync(GPUMapMode.READ);
        bytes(out, length).set(new Uint8Array(staging.getMappedRange()));
      } catch (error) {
        failed ??= error.message;
      }
      staging.destroy();
      return state();
    }),
    check: () => state(),
  };
}

// The engine, started. `say(kind, value)` hears notes ('note', a sentence), progress ('progress', { done, total }) and
// the picture as it would be after that step ('preview', a PNG as bytes).
export async function startEngine({ say = () => {} } = {}) {
  const url = new URL('unmist.wasm', import.meta.url);
  const why = await whyNot();
  if (why) throw new Unsupported(why);
  const { device, account } = await openDevice();
  let wasm, files = [], panic = null;
  const report = (kind, bytes) => {
    const text = () => new TextDecoder().decode(bytes);
    if (kind === 0) say('note', text());
    if (kind === 1) say('progress', JSON.parse(text()));
    if (kind === 2) panic = text();
    if (kind === 3) say('preview', bytes);
  };
  const unmist = hostOf(device, () => wasm.memory, (number) => files[number], report);
  const source = await fetch(url);
  if (!source.ok) throw new Error(`${url}: ${source.status} ${source.statusText}`);
  const { instance } = await WebAssembly.instantiateStreaming(source, { unmist });
  wasm = instance.exports;
  const sample = WebAssembly.promising(wasm.unmist_sample);
  const run = WebAssembly.promising(wasm.unmist_run);
  // The start and the length of bytes in the module's memory; the call that gets them frees them.
  const put = (value) => {
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : new Uint8Array(value);
    const start = wasm.unmist_allocate(bytes.length);
    new Uint8Array(wasm.memory.buffer, start, bytes.length).set(bytes);
    return [start, bytes.length];
  };
  const call = async (named, ...values) => {
    if (panic) throw new Error(`The engine has failed; reload the page. (${panic})`);
    let status;
    try {
      status = await named(...values.flatMap((value) => typeof value === 'number' ? value : put(value)));
    } catch (error) {
      panic ??= error.message;
      throw new Error(`The engine has failed; reload the page. (${panic})`);
    }
    const answer = new Uint8Array(wasm.memory.buffer, wasm.unmist_answer(), wasm.unmist_answer_length()).slice();
    if (status === 0) return answer;
    throw Object.assign(new Error(), JSON.parse(new TextDecoder().decode(answer)));
  };
  await call(wasm.unmist_start, JSON.stringify(account));
  return {
    device,
    account,
    // Gives the engine these files, { name, blob, id }, in place of those it had. Equal ids mean equal bytes.
    setFiles(list) {
      files = list.map(({ blob }) => blob);
      wasm.unmist_clear_files();
      list.forEach(({ name, blob, id }, number) => {
        wasm.unmist_add_file(...put(name), ...put(id), number, blob.size);
      });
    },
    async describe(path) { return JSON.parse(new TextDecoder().decode(await call(wasm.unmist_describe, path))); },
    // A PNG, as bytes. `pictures`, { name, blob }, are what the request names as `image` and `mask`; at most so many
    // `previews` are shown meanwhile.
    async sample(request, { pictures = [], previews = 0 } = {}) {
      const files = await Promise.all(pictures.map(({ blob }) => blob.arrayBuffer()));
      pictures.forEach(({ name }, i) => wasm.unmist_add_picture(...put(name), ...put(files[i])));
      return call(sample, JSON.stringify(request), previews);
    },
    // One forward pass of a component: { model, component, precision }, and the bytes of a .safetensors file.
    run: (request, inputs) => call(run, JSON.stringify(request), inputs),
    cancel: () => wasm.unmist_cancel(),
    memoryBytes: () => wasm.memory.buffer.byteLength,
  };
}
