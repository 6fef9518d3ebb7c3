//! Samplers of scores where the answer is known: of pictures whose pixels are N(m, s²), the score at the noise level σ
//! is (m − x) / (s² + σ²), and every sampler must make pixels of that mean and deviation.

use unmist::HostTensor;
use unmist::ops::Fill;
use unmist::rng::{StepNoise, TorchCpu, randn_tensor};
use unmist::schedulers::{Churn, Frame, Sampling, Schedule, Scheduler, SchedulerConfig, Step};

const MEAN: f64 = 0.6;
const DEVIATION: f64 = 0.2;

const VE: &str = "ScoreSdeVeScheduler";

fn schedule(config: serde_json::Value, steps: usize) -> (Frame, Schedule) {
    let config = SchedulerConfig::from_json(&config.to_string()).expect("sound");
    let frame = config.class.frame();
    (frame, Scheduler::new(config).and_then(|s| s.schedule(&Sampling::steps(steps))).expect("sound"))
}

/// What a perfect model returns for the sample `x` of a step.
fn model(frame: Frame, step: &Step, x: &HostTensor) -> HostTensor {
    let (signal, noise) = (step.add_noise.signal, step.add_noise.noise);
    let variance = (signal * DEVIATION).powi(2) + noise * noise;
    HostTensor::from_fn(x.shape.as_slice(), |i| {
        let x = f64::from(x.data[i]);
        let score = (signal * MEAN - x) / variance;
        let output = match frame {
            Frame::Score => score,
            Frame::VariancePreserving => -noise * score,
            // F, of which x_0 = c_skip x + c_out F is the mean of what x may have been.
            Frame::Edm => (x + noise * noise * score - step.x0.sample * x) / step.x0.model_output,
            _ => unreachable!("no frame of scores"),
        };
        output as f32
    })
}

/// The samples of a run from `start`.
fn run(frame: Frame, schedule: &Schedule, start: &HostTensor, seed: u64) -> HostTensor {
    let mut sources = [TorchCpu::new(seed)];
    let mut noise = StepNoise::new(&mut sources);
    let further = noise.draw(schedule.start_draw, &start.shape);
    let mut sample = HostTensor::from_fn(start.shape.as_slice(), |i| {
        let further = further.as_ref().map_or(0.0, |z| schedule.start_noise * f64::from(z.data[i]));
        (schedule.init_mean + schedule.init_noise_sigma * f64::from(start.data[i]) + further) as f32
    });
    let mut memory = vec![HostTensor::zeros(start.shape.as_slice()); schedule.memory_slots];
    for step in &schedule.steps {
        let output = model(frame, step, &sample);
        let drawn = noise.draw(step.draw, &start.shape);
        sample = step.apply(&sample, &output, drawn.as_ref(), &mut memory).expect("shapes agree").0;
    }
    sample
}

#[test]
fn samplers_make_the_distribution_of_which_they_know_the_score() {
    let class = |name: &str, keys: serde_json::Value| {
        let mut keys = keys;
        keys["_class_name"] = name.into();
        keys
    };
    let levels = serde_json::json!({"sigma_min": 0.01, "sigma_max": 20.0});
    // Its steps at small levels are small, so that a run ends with the smallest one's noise.
    let langevin = serde_json::json!({"sigma_min": 0.1, "sigma_max": 3.0, "langevin_epsilon": 1e-3});
    let mut churned = levels.clone();
    churned["s_churn"] = 20.0.into();
    for (what, config, steps) in [
        ("predictor and corrector", class(VE, levels.clone()), 300),
        ("Langevin dynamics", class("AnnealedLangevinScheduler", langevin), 20),
        ("variance preserving", class("ScoreSdeVpScheduler", serde_json::json!({})), 500),
        ("probability flow", class("ProbabilityFlowScheduler", levels.clone()), 40),
        ("probability flow with churn", class("ProbabilityFlowScheduler", churned), 60),
        ("Karras VE", class("KarrasVeScheduler", serde_json::json!({"sigma_max": 6.0, "s_noise": 1.0})), 60),
        ("EDM", class("EDMHeunScheduler", serde_json::json!({})), 40),
        ("EDM with churn", class("EDMHeunScheduler", serde_json::json!({"s_churn": 20.0, "s_tmin": 0.05})), 60),
    ] {
        let (frame, schedule) = schedule(config, steps);
        // One element an image would make a norm of one number of it.
        let start = randn_tensor(&mut [TorchCpu::new(7)], &[20, 1, 16, 16]);
        let made = run(frame, &schedule, &start, 8);
        let mean = made.data.iter().map(|v| f64::from(*v)).sum::<f64>() / made.len() as f64;
        let variance = made.data.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / made.len() as f64;
        let deviation = variance.sqrt();
        assert!((mean - MEAN).abs() < 0.02, "{what}: mean {mean}, expected {MEAN}");
        let expected = if what == "Langevin dynamics" { DEVIATION.hypot(0.1) } else { DEVIATION };
        assert!((deviation / expected - 1.0).abs() < 0.06, "{what}: deviation {deviation}, expected {expected}");
    }
}

/// Without churn, Heun's method follows the ODE x(σ) = m + (x(σ_max) − m) √((s² + σ²) / (s² + σ_max²)), with an error
/// that falls with the square of the steps' length, and Euler's with the length.
#[test]
fn heun_is_of_second_order() {
    let start = Fill::Normal.tensor(&[1, 1, 4, 4], 3);
    let error = |class: &str, steps: usize| {
        let (frame, schedule) = schedule(serde_json::json!({"_class_name": class, "sigma_max": 20.0}), steps);
        let scale = (DEVIATION.powi(2) / (DEVIATION.powi(2) + 20.0f64.powi(2))).sqrt();
        let made = run(frame, &schedule, &start, 0);
        let off = |i: usize| {
            let x = schedule.init_noise_sigma * f64::from(start.data[i]);
            (f64::from(made.data[i]) - (MEAN + (x - MEAN) * scale)).abs()
        };
        (0..made.len()).map(off).fold(0.0, f64::max)
    };
    let heun = [16, 32].map(|steps| error("EDMHeunScheduler", steps));
    let euler = [16, 32].map(|steps| error("EDMEulerScheduler", steps));
    assert!((3.0..6.0).contains(&(heun[0] / heun[1])), "Heun: {heun:?}");
    assert!((1.5..2.6).contains(&(euler[0] / euler[1])), "Euler: {euler:?}");
}

/// Each number of a config is read, and one that makes no sense is refused by name.
#[test]
fn numbers_of_scores_are_read_or_refused() {
    let read = |text: &str| SchedulerConfig::from_json(text);
    let config =
        read(r#"{"_class_name": "KarrasVeScheduler", "s_min": 0.1, "s_max": 2, "s_churn": 3, "s_noise": 1.5}"#);
    assert_eq!(config.expect("sound").churn, Churn { amount: 3.0, range: [0.1, 2.0], noise: 1.5 });
    for (class, key, value) in [
        (VE, "snr", "0"),
        (VE, "correct_steps", "-1"),
        (VE, "sampling_eps", "2"),
        ("ScoreSdeVpScheduler", "beta_max", "\"much\""),
        ("KarrasVeScheduler", "s_churn", "-80"),
        ("ProbabilityFlowScheduler", "rho", "0"),
        ("AnnealedLangevinScheduler", "langevin_steps", "0"),
        ("AnnealedLangevinScheduler", "langevin_epsilon", "0"),
    ] {
        let text = format!(r#"{{"_class_name": "{class}", "{key}": {value}}}"#);
        let message = read(&text).expect_err(&text).to_string();
        assert!(message.contains(key), "{text}: {message}");
    }
    let falling = |class: &str| {
        let text = format!(r#"{{"_class_name": "{class}", "sigma_min": 3, "sigma_max": 2}}"#);
        let scheduler = Scheduler::new(read(&text).expect("read")).expect("sound");
        scheduler.schedule(&Sampling::steps(3)).expect_err(class).to_string()
    };
    for class in [VE, "KarrasVeScheduler", "ProbabilityFlowScheduler", "AnnealedLangevinScheduler"] {
        assert!(falling(class).contains("levels must fall"), "{class}");
    }
    for class in
        [VE, "ScoreSdeVpScheduler", "KarrasVeScheduler", "ProbabilityFlowScheduler", "AnnealedLangevinScheduler"]
    {
        let scheduler = read(&format!(r#"{{"_class_name": "{class}"}}"#)).and_then(Scheduler::new).expect("sound");
        assert!(scheduler.schedule(&Sampling::steps(0)).is_err(), "{class}: no steps");
        assert_eq!(scheduler.step_numbers(&Sampling::steps(1)).expect(class).total, 1, "{class}");
    }
}
