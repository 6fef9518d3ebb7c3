//! What a model was trained with, and so which schedulers understand it.

use unmist::Error;
use unmist::schedulers::{Sampling, Scheduler, SchedulerClass, SchedulerConfig, scheduler_by_name};

/// A class with its own defaults.
fn default(class: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(&format!(r#"{{"_class_name": "{class}"}}"#)).expect("sound")
}

/// A model with the config `base` refuses the scheduler `name`, and says `part` of the reason.
fn refused(name: &str, base: &SchedulerConfig, part: &str) {
    let message = scheduler_by_name(name, base).expect_err(name).to_string();
    assert!(message.contains(part), "{name}: {message}");
}

/// A model of the frame of Karras et al. 2022 understands no other scheduler's samples, nor another model an EDM one's.
#[test]
fn edm_models_have_schedulers_of_their_own() {
    let (edm, other) = (default("EDMEulerScheduler"), default("EulerDiscreteScheduler"));
    for (name, class) in [
        ("Euler", SchedulerClass::EdmEuler),
        ("DPM++ 2M", SchedulerClass::EdmDpmSolverMultistep),
        ("EDMDPMSolverMultistepScheduler", SchedulerClass::EdmDpmSolverMultistep),
    ] {
        assert_eq!(scheduler_by_name(name, &edm).expect(name).class, class);
    }
    for (name, base, part) in [
        ("DDIM", &edm, "EDM's noise levels"),
        ("DPM++ 2M Karras", &edm, "Euler, DPM++ 2M and Heun"),
        ("EulerDiscreteScheduler", &edm, "Euler, DPM++ 2M and Heun"),
        ("EDMEulerScheduler", &other, "EDM's noise levels, and this one counts timesteps"),
    ] {
        refused(name, base, part);
    }
    for scheduler in [edm, default("IPNDMScheduler")].map(|config| Scheduler::new(config).expect("sound")) {
        let part = Sampling { denoising_end: Some(0.5), ..Sampling::steps(4) };
        let message = scheduler.schedule(&part).expect_err("counts no timesteps").to_string();
        assert!(message.contains("denoising_end") && message.contains("trained timesteps"), "{message}");
    }
}

/// Nor do models of flows and of jumps; a consistency model's own timesteps are the published ones.
#[test]
fn flows_and_consistency_models_have_schedulers_of_their_own() {
    let [flow, jumps, other] =
        ["FlowMatchEulerDiscreteScheduler", "CMStochasticIterativeScheduler", "EulerDiscreteScheduler"].map(default);
    for (name, base, class) in [
        ("Euler", &flow, SchedulerClass::FlowMatchEulerDiscrete),
        ("heun", &flow, SchedulerClass::FlowMatchHeunDiscrete),
        ("CMStochasticIterativeScheduler", &jumps, SchedulerClass::CmStochasticIterative),
    ] {
        assert_eq!(scheduler_by_name(name, base).expect(name).class, class);
    }
    for (name, base, part) in [
        ("DDIM", &flow, "there are Euler and Heun"),
        ("Euler", &jumps, "there is CMStochasticIterativeScheduler"),
        ("FlowMatchHeunDiscreteScheduler", &other, "this one counts timesteps"),
        ("CMStochasticIterativeScheduler", &flow, "trained on a flow"),
    ] {
        refused(name, base, part);
    }
    // Two jumps, as the paper's model of ImageNet makes them.
    let scheduler = Scheduler::new(jumps).expect("sound");
    let jumps = |timesteps: &[usize]| {
        scheduler.schedule(&Sampling { timesteps: Some(timesteps.to_vec()), ..Sampling::steps(0) })
    };
    let schedule = jumps(&[22, 0]).expect("two");
    let levels: Vec<_> = schedule.steps.iter().map(|step| step.add_noise.noise).collect();
    assert!((levels[0] - 80.0).abs() < 1e-4 && (levels[1] - 1.3824).abs() < 1e-4, "diffusers': {levels:?}");
    assert!((schedule.steps[1].timestep - 250.0 * levels[1].ln()).abs() < 1e-4);
    for bad in [&[0, 22][..], &[40, 0], &[]] {
        assert!(matches!(jumps(bad), Err(Error::Usage(_))), "{bad:?}");
    }
    let flow = Scheduler::new(flow).expect("sound");
    for asked in [
        Sampling { timesteps: Some(vec![3, 1]), ..Sampling::steps(0) },
        Sampling { sigmas: Some(vec![1.0, 0.0]), ..Sampling::steps(0) },
    ] {
        let message = flow.schedule(&asked).expect_err("it has levels of its own").to_string();
        assert!(message.contains("its own noise levels"), "{message}");
    }
}

/// Nor do models of scores.
#[test]
fn models_of_scores_have_schedulers_of_their_own() {
    let [scores, preserving, other] =
        ["ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "EulerDiscreteScheduler"].map(default);
    for (name, base, class) in [
        ("predictor-corrector", &scores, SchedulerClass::ScoreSdeVe),
        ("Heun", &scores, SchedulerClass::ProbabilityFlow),
        ("rk45", &scores, SchedulerClass::ProbabilityFlowRk45),
        ("langevin", &scores, SchedulerClass::AnnealedLangevin),
        ("KarrasVeScheduler", &scores, SchedulerClass::KarrasVe),
        ("ScoreSdeVpScheduler", &preserving, SchedulerClass::ScoreSdeVp),
        ("RK45", &preserving, SchedulerClass::ScoreSdeVpRk45),
    ] {
        assert_eq!(scheduler_by_name(name, base).expect(name).class, class);
    }
    for (name, base, part) in [
        ("DDIM", &scores, "there are Predictor-corrector, Heun, RK45, Langevin and Karras VE"),
        ("Euler", &preserving, "there are ScoreSdeVpScheduler and RK45"),
        ("ScoreSdeVeScheduler", &other, "this one counts timesteps"),
        ("ScoreSdeVeScheduler", &preserving, "preserves the variance"),
    ] {
        refused(name, base, part);
    }
}

/// Nor does a model of a continuous time, and a run of one must not be one of timesteps from 0 to 1.
#[test]
fn models_of_continuous_time_have_ipndm() {
    let (ipndm, other) = (default("IPNDMScheduler"), default("EulerDiscreteScheduler"));
    assert_eq!(scheduler_by_name("IPNDMScheduler", &ipndm).expect("its own").class, SchedulerClass::Ipndm);
    for (name, base, part) in [
        ("IPNDMScheduler", &other, "counts timesteps"),
        ("Euler", &ipndm, "there is IPNDMScheduler"),
        ("DPMSolverSDEScheduler", &ipndm, "there is IPNDMScheduler"),
        // ComfyUI's is another algorithm, for the models that it has.
        ("ipndm", &other, "no such scheduler"),
    ] {
        refused(name, base, part);
    }
}
