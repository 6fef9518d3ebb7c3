// scratch: opsc raw file.wgsl bufs(comma f32 counts; 'u:' prefix = uniform words) X Y Z
use std::time::Instant;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let r = &s[s.rfind(')').unwrap() + 2..];
    let f: Vec<&str> = r.split(' ').collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (_, adapter) = unmist::gpu::select_adapter("auto").unwrap().unwrap();
    match a[1].as_str() {
        "raw" => raw(adapter, &a[2..]),
        "case" => case(adapter, &a[2..]),
        _ => {}
    }
}
fn raw(adapter: wgpu::Adapter, a: &[String]) {
    let limits = adapter.limits();
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: None,
        required_features: adapter.features() & (wgpu::Features::SUBGROUP),
        required_limits: limits,
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    }))
    .unwrap();
    let src = unmist::kernel::expand("raw", &std::fs::read_to_string(&a[0]).unwrap(), &[], &[]).unwrap();
    let m = unsafe {
        device.create_shader_module_trusted(
            wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(src.into()) },
            wgpu::ShaderRuntimeChecks::unchecked(),
        )
    };
    let t0 = Instant::now();
    let p = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &m,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[],
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    let bufs: Vec<wgpu::Buffer> = a[1]
        .split(',')
        .map(|s| {
            let u = s.strip_prefix("u:");
            let data: Vec<u8> = if let Some(u) = u {
                u.split('/')
                    .flat_map(|w| {
                        if w.contains('.') {
                            w.parse::<f32>().unwrap().to_le_bytes()
                        } else {
                            w.parse::<u32>().unwrap().to_le_bytes()
                        }
                    })
                    .collect()
            } else {
                let n: usize = s.parse().unwrap();
                let mut x = 12345u32;
                (0..n)
                    .flat_map(|_| {
                        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                        (((x >> 8) as f32) / 16777216.0 - 0.5).to_le_bytes()
                    })
                    .collect()
            };
            let b = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: ((data.len() + 255) & !255) as u64,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::UNIFORM
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            queue.write_buffer(&b, 0, &data);
            b
        })
        .collect();
    let entries: Vec<_> = bufs
        .iter()
        .enumerate()
        .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
        .collect();
    let bg = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &p.get_bind_group_layout(0),
        entries: &entries,
    });
    let [x, y, z] = [2, 3, 4].map(|i| a[i].parse::<u32>().unwrap());
    let mut best = f64::MAX;
    let mut bestw = f64::MAX;
    let mut first = 0.0;
    for it in 0..a.get(5).map_or(4, |s| s.parse().unwrap()) {
        let (t, c) = (Instant::now(), cpu());
        let mut e = device.create_command_encoder(&Default::default());
        {
            let mut pass = e.begin_compute_pass(&Default::default());
            pass.set_pipeline(&p);
            pass.set_bind_group(0, &bg, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        queue.submit([e.finish()]);
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let w = t.elapsed().as_secs_f64();
        let cc = (cpu() - c) / 2.0;
        if it == 0 {
            first = t0.elapsed().as_secs_f64();
        } else {
            best = best.min(cc);
            bestw = bestw.min(w);
        }
    }
    println!("{}: first {:.0} ms, best cpu/2 {:.1} ms, wall {:.1} ms", a[0], first * 1e3, best * 1e3, bestw * 1e3);
}
fn case(adapter: wgpu::Adapter, a: &[String]) {
    use unmist::{backend::Session, gpu::*, plan::*};
    let gpu = GpuDevice::open(adapter, false).unwrap();
    let case = shapes(&a[0]);
    let dtype = if a.get(2).is_some_and(|s| s == "f16") { unmist::DType::F16 } else { unmist::DType::F32 };
    let (graph, inputs) = case.graph(dtype).unwrap();
    let choice = Choice { forced: vec![(case.op.name().into(), a[1].clone())], family: None };
    let plan = Plan::new(&graph, gpu.caps(), &PlanOptions { choice, ..Default::default() }).unwrap();
    let flops = plan.cost().flops as f64;
    let mut s = GpuSession::new(&gpu, plan, &std::collections::HashMap::new()).unwrap();
    for (n, t) in &inputs {
        s.write(n, t).unwrap();
    }
    let t = Instant::now();
    s.run().unwrap();
    s.wait().unwrap();
    let first = t.elapsed().as_secs_f64();
    let (mut best, mut bestw) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let (t, c) = (Instant::now(), cpu());
        let n = 1;
        for _ in 0..n {
            s.run().unwrap();
        }
        s.wait().unwrap();
        best = best.min((cpu() - c) / 2.0 / n as f64);
        bestw = bestw.min(t.elapsed().as_secs_f64() / n as f64);
    }
    println!(
        "{} {} {}: first {:.0} ms, cpu/2 {:.1} ms, wall {:.2} ms, {:.2} GF/s wall",
        a[0],
        a[1],
        dtype.name(),
        first * 1e3,
        best * 1e3,
        bestw * 1e3,
        flops / bestw / 1e9
    );
    if a.get(3).is_some() {
        use unmist::verify::*;
        let mut r = unmist::reference::ReferenceSession::new(graph, &std::collections::HashMap::new()).unwrap();
        for (n, t) in &inputs {
            r.write(n, t).unwrap();
        }
        r.run().unwrap();
        println!("   {:?}", compare(&s.read("y").unwrap(), &r.read("y").unwrap(), Tolerance::l2(1.0)));
    }
}
// op:dims e.g. attention:n,t,s,heads,d[,causal]  group_norm:n,h,w,c,g  layer_norm:rows,c softmax:rows,c
fn shapes(s: &str) -> unmist::ops::Case {
    use unmist::ops::*;
    let (op, d) = s.split_once(':').unwrap();
    let d: Vec<usize> = d.split(',').map(|x| x.parse().unwrap()).collect();
    match op {
        "attention" => {
            let c = d[3] * d[4];
            let causal = d.get(5).is_some();
            let self_ = d[1] == d[2];
            let o = attention::Attention {
                heads: d[3],
                causal,
                scale: None,
                packing: if self_ { attention::Packing::Qkv } else { attention::Packing::Kv },
            };
            let i = if self_ {
                vec![CaseInput::normal([d[0], d[1], 3 * c]), None, None]
            } else {
                vec![CaseInput::normal([d[0], d[1], c]), CaseInput::normal([d[0], d[2], 2 * c]), None]
            };
            Case::new("x", o, i)
        }
        "group_norm" => Case::new(
            "x",
            group_norm::GroupNorm { groups: d[4], eps: 1e-5, activation: Some(activation::ActivationKind::Silu) },
            vec![
                CaseInput::normal([d[0], d[1], d[2], d[3]]),
                CaseInput::f32([d[3]], Fill::Normal),
                CaseInput::f32([d[3]], Fill::Normal),
            ],
        ),
        "layer_norm" => Case::new(
            "x",
            layer_norm::LayerNorm { eps: 1e-5 },
            vec![
                CaseInput::normal([d[0], d[1]]),
                CaseInput::f32([d[1]], Fill::Normal),
                CaseInput::f32([d[1]], Fill::Normal),
            ],
        ),
        "softmax" => Case::new("x", softmax::Softmax, vec![CaseInput::normal([d[0], d[1]])]),
        _ => panic!(),
    }
}
