//! Whole runs of every scheduler against diffusers', with a formula in place of the model.

use unmist::HostTensor;
use unmist::rng::{Draw, Increment, StepNoise, TorchCpu};
use unmist::schedulers::{Sampling, Schedule, Scheduler, Step};
use unmist::verify::{Tolerance, compare};

use crate::common::{Fixture, check_close};
use crate::schedulers::tables::config;

/// The formula that stands in for the U-Net.
fn model(input: &HostTensor, timestep: f64) -> HostTensor {
    let factor = (timestep / 300.0).cos();
    HostTensor::from_fn(input.shape.as_slice(), |i| ((f64::from(input.data[i]) / 2.0).tanh() * factor + 0.1) as f32)
}

fn scaled(sample: &HostTensor, by: f64) -> HostTensor {
    HostTensor::from_fn(sample.shape.as_slice(), |i| (f64::from(sample.data[i]) * by) as f32)
}

/// The sample after each call of the model.
fn run(schedule: &Schedule, start: HostTensor, noise_seed: u64) -> Vec<HostTensor> {
    let mut sources = [TorchCpu::new(noise_seed)];
    let mut noise = StepNoise::new(&mut sources);
    let mut sample = start;
    if let Some(drawn) = noise.draw(schedule.start_draw, &sample.shape) {
        sample.data.iter_mut().zip(&drawn.data).for_each(|(x, z)| *x += (schedule.start_noise * f64::from(*z)) as f32);
    }
    let mut memory = vec![HostTensor::zeros(sample.shape.as_slice()); schedule.memory_slots];
    let mut call = |step: &Step| {
        let model_output = model(&scaled(&sample, step.input_scale), step.timestep);
        let drawn = noise.draw(step.draw, &sample.shape);
        let (prev_sample, _) = step.apply(&sample, &model_output, drawn.as_ref(), &mut memory).expect("shapes agree");
        assert_eq!(memory.len(), schedule.memory_slots, "memory slots");
        sample = prev_sample;
        sample.clone()
    };
    schedule.steps.iter().map(&mut call).collect()
}

/// Gives the steps' Brownian paths diffusers' noise levels, once they are known to be the same but for the last bits.
/// Those come from the square root, logarithm and exponential function of the library that torch was built with, which
/// are not the same on every processor, and over one bit of 14.6 a path moves by 1e-3.
fn take_levels(what: &str, schedule: &mut Schedule, levels: &HostTensor) {
    let draws: Vec<_> = schedule.steps.iter_mut().filter(|step| step.draws_noise()).collect();
    assert_eq!(levels.shape, [1 + draws.len(), 2], "{what}: draws");
    let pair = |i: usize| [levels.data[2 * i], levels.data[2 * i + 1]].map(f64::from);
    for (i, step) in draws.into_iter().enumerate() {
        let Draw::Brownian(increment) = &mut step.draw else { panic!("{what}: a Brownian path") };
        let Increment { range: [low, high], from, to, .. } = increment;
        for (ours, theirs) in [low, high, from, to].into_iter().zip([pair(0), pair(1 + i)].concat()) {
            assert!((*ours - theirs).abs() <= 4e-7 * theirs, "{what}: level {ours}, diffusers has {theirs}");
            *ours = theirs;
        }
    }
}

/// Every case of one class's fixture: timesteps, initial noise, and the samples along the way.
fn check_runs(class: &str, at_least: usize, tolerance: f64) {
    let fixture = Fixture::read(&format!("schedulers/{class}"));
    let (sample, noise) = (fixture.tensor("sample"), fixture.tensor("noise"));
    let noise_seed = fixture.text("noise_seed").parse().expect("a seed");
    let cases = fixture.object("cases");
    assert!(cases.len() >= at_least, "{class}: only {} cases", cases.len());
    for (key, case) in cases {
        let what = format!("{class} {key}");
        let whole = |key: &str| case.get(key).map_or(0, |value| value.as_u64().expect("a whole number") as usize);
        let (steps, begin) = (whole("steps"), whole("begin"));
        let strength = (steps - begin) as f64 / steps as f64;
        let scheduler = Scheduler::new(config(class, &case["config"])).unwrap_or_else(|e| panic!("{what}: {e}"));
        let plan = |strength: f64| {
            // The default of TCDScheduler.step; pipelines always pass their own, 0.
            let eta = if class == "TCDScheduler" { 0.3 } else { 0.0 };
            let sampling = Sampling { strength, eta, ..Sampling::steps(steps) };
            scheduler.schedule(&sampling).unwrap_or_else(|e| panic!("{what}: {e}"))
        };

        let timesteps: Vec<f64> = plan(1.0).steps.iter().map(|step| step.timestep).collect();
        let expected = fixture.tensor(&format!("{key}/timesteps"));
        let found = HostTensor::from_fn([timesteps.len()], |i| timesteps[i] as f32);
        // Timesteps found from σ inherit the rounding of ln σ in float32: 1e-7, at a spacing of about 0.005.
        compare(&found, expected, Tolerance::largest(1e-3)).unwrap_or_else(|e| panic!("{what}: timesteps: {e}"));

        let mut schedule = plan(strength);
        if let Some(levels) = fixture.find(&format!("{key}/levels")) {
            take_levels(&what, &mut schedule, levels);
        }
        let init_noise_sigma = case["init_noise_sigma"].as_f64().expect("a number");
        let off = (schedule.init_noise_sigma - init_noise_sigma).abs();
        assert!(off <= 1e-6 * init_noise_sigma, "{what}: init_noise_sigma {}", schedule.init_noise_sigma);
        let start = if begin > 0 {
            let noising = schedule.steps[0].add_noise;
            let start = HostTensor::from_fn(sample.shape.as_slice(), |i| {
                (noising.signal * f64::from(sample.data[i]) + noising.noise * f64::from(noise.data[i])) as f32
            });
            check_close(&format!("{what} start"), &start.data, &fixture.tensor(&format!("{key}/start")).data, 1e-6);
            start
        } else {
            scaled(sample, schedule.init_noise_sigma)
        };

        // diffusers rounds sums of numbers as large as the initial noise to float32 (σ is 4096 with zero terminal SNR).
        let tolerance = tolerance + 1e-7 * init_noise_sigma;
        let found = run(&schedule, start, noise_seed);
        let trajectory = fixture.tensor(&format!("{key}/trajectory"));
        let calls = trajectory.shape[0];
        assert!(calls == found.len() || calls == 1, "{what}: {calls} calls, found {}", found.len());
        for (call, found) in found[found.len() - calls..].iter().enumerate() {
            let expected = fixture.entry(&format!("{key}/trajectory"), call);
            check_close(&format!("{what} call {call}"), &found.data, &expected.data, tolerance);
        }
    }
}

/// With its own levels, a path is diffusers' but for what it does over their last bits, a few thousandths of the noise
/// that one step adds: 3.4e-4 of the sample at most, in these cases.
#[test]
fn dpmsolver_sde_with_its_own_levels() {
    let fixture = Fixture::read("schedulers/DPMSolverSDEScheduler");
    let cases = fixture.object("cases").into_iter().filter(|(_, case)| case.get("begin").is_none());
    for (key, case) in cases {
        let steps = case["steps"].as_u64().expect("a whole number") as usize;
        let mut fields = case["config"].clone();
        // Without it, the path has the source's seed, which is the same here.
        fields.as_object_mut().expect("an object").remove("noise_sampler_seed").expect("all cases have it");
        let scheduler = Scheduler::new(config("DPMSolverSDEScheduler", &fields)).expect("valid");
        let schedule = scheduler.schedule(&Sampling::steps(steps)).expect("valid");
        let start = scaled(fixture.tensor("sample"), schedule.init_noise_sigma);
        let seed = fixture.text("noise_seed").parse().expect("a seed");
        let found = run(&schedule, start, seed).pop().expect("there are steps");
        let trajectory = fixture.tensor(&format!("{key}/trajectory"));
        let expected = fixture.entry(&format!("{key}/trajectory"), trajectory.shape[0] - 1);
        compare(&found, &expected, Tolerance::l2(1e-3)).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

macro_rules! runs {
    ($($test:ident: $class:literal, $at_least:literal cases, $tolerance:literal;)+) => {
        $(#[test] fn $test() { check_runs($class, $at_least, $tolerance); })+
    };
}

runs! {
    pndm: "PNDMScheduler", 30 cases, 1e-5;
    lms_discrete: "LMSDiscreteScheduler", 30 cases, 1e-5;
    euler_discrete: "EulerDiscreteScheduler", 30 cases, 1e-5;
    euler_ancestral_discrete: "EulerAncestralDiscreteScheduler", 20 cases, 1e-5;
    heun_discrete: "HeunDiscreteScheduler", 30 cases, 1e-5;
    kdpm2_discrete: "KDPM2DiscreteScheduler", 30 cases, 1e-5;
    // diffusers computes σ_down² as the difference of two nearly equal squares in float32, which our formula avoids.
    kdpm2_ancestral_discrete: "KDPM2AncestralDiscreteScheduler", 30 cases, 3e-5;
    dpmsolver_multistep: "DPMSolverMultistepScheduler", 80 cases, 1e-5;
    dpmsolver_singlestep: "DPMSolverSinglestepScheduler", 50 cases, 1e-5;
    unipc_multistep: "UniPCMultistepScheduler", 50 cases, 1e-5;
    // As for kdpm2_ancestral_discrete.
    dpmsolver_sde: "DPMSolverSDEScheduler", 20 cases, 3e-5;
    sasolver: "SASolverScheduler", 60 cases, 1e-5;
    ddim_inverse: "DDIMInverseScheduler", 14 cases, 1e-5;
    ipndm: "IPNDMScheduler", 5 cases, 1e-5;
    // diffusers divides by differences of ln ρ in float32, which cancel where beta spacing is dense.
    deis_multistep: "DEISMultistepScheduler", 45 cases, 3e-5;
    edm_euler: "EDMEulerScheduler", 20 cases, 1e-5;
    edm_heun: "EDMHeunScheduler", 8 cases, 1e-5;
    edm_dpmsolver_multistep: "EDMDPMSolverMultistepScheduler", 38 cases, 1e-5;
    flow_match_euler_discrete: "FlowMatchEulerDiscreteScheduler", 34 cases, 1e-5;
    flow_match_heun_discrete: "FlowMatchHeunDiscreteScheduler", 11 cases, 1e-5;
    cm_stochastic_iterative: "CMStochasticIterativeScheduler", 14 cases, 1e-5;
    lcm: "LCMScheduler", 30 cases, 1e-5;
    tcd: "TCDScheduler", 30 cases, 1e-5;
    ddim: "DDIMScheduler", 2 cases, 1e-5;
    ddpm: "DDPMScheduler", 2 cases, 1e-5;
}
