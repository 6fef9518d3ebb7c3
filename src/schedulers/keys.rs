//! Which keys of a `scheduler_config.json` belong to which class, as in the signatures of diffusers' classes.

use super::options::{Named, SchedulerClass};

/// Keys of every class with a table of β.
const COMMON: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "steps_offset",
];
const SPACING: &[&str] = &["timestep_spacing"];
const CLIP: &[&str] = &["clip_sample", "clip_sample_range"];
const THRESHOLD: &[&str] = &["thresholding", "dynamic_thresholding_ratio", "sample_max_value"];
const ZERO_SNR: &[&str] = &["rescale_betas_zero_snr"];
const SIGMAS: &[&str] = &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];
const SIGMA_RANGE: &[&str] = &["sigma_min", "sigma_max"];
const EDM: &[&str] = &["sigma_schedule", "sigma_data", "rho"];
const FINAL_SIGMA: &[&str] = &["final_sigmas_type"];
const FLOW: &[&str] = &["use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type"];
const SOLVER: &[&str] = &["solver_order", "solver_type", "lower_order_final"];
const SA_SOLVER: &[&str] = &["predictor_order", "corrector_order", "tau_func", "lower_order_final"];
const DPM: &[&str] = &["algorithm_type", "lambda_min_clipped", "variance_type"];
const FLOW_MATCH: &[&str] = &[
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "time_shift_type",
    "invert_sigmas",
    "shift_terminal",
    "stochastic_sampling",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
];
const CONSISTENCY: &[&str] =
    &["num_train_timesteps", "sigma_min", "sigma_max", "sigma_data", "s_noise", "rho", "clip_denoised"];
const CHURN: &[&str] = &["s_churn", "s_tmin", "s_tmax", "s_noise"];
const TOLERANCE: &[&str] = &["rtol", "atol"];
const DISTILLED: &[&str] = &["original_inference_steps", "timestep_scaling", "set_alpha_to_one"];

/// Keys of schedulers elsewhere in diffusers, and of releases long past, that mean nothing to any class here.
const FOREIGN: &[&str] =
    &["base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift", "tensor_format", "timestep_values"];

/// The keys that a class reads.
pub(super) fn keys(class: SchedulerClass) -> Vec<&'static str> {
    use SchedulerClass::*;
    let groups: &[&[&str]] = match class {
        Ddpm => &[SPACING, CLIP, THRESHOLD, ZERO_SNR, &["variance_type"]],
        Ddim => &[SPACING, CLIP, THRESHOLD, ZERO_SNR, &["set_alpha_to_one"]],
        DdimInverse => &[SPACING, CLIP, ZERO_SNR, &["set_alpha_to_one"]],
        Pndm => &[SPACING, &["set_alpha_to_one", "skip_prk_steps"]],
        LmsDiscrete | Kdpm2Discrete | Kdpm2AncestralDiscrete => &[SPACING, SIGMAS],
        HeunDiscrete => &[SPACING, SIGMAS, CLIP],
        EulerDiscrete => {
            &[SPACING, SIGMAS, SIGMA_RANGE, ZERO_SNR, FINAL_SIGMA, &["interpolation_type", "timestep_type"]]
        }
        EulerAncestralDiscrete => &[SPACING, ZERO_SNR],
        DpmSolverMultistep => &[
            SPACING,
            SIGMAS,
            ZERO_SNR,
            FINAL_SIGMA,
            THRESHOLD,
            SOLVER,
            FLOW,
            DPM,
            &["euler_at_final", "use_lu_lambdas"],
        ],
        DpmSolverSinglestep => &[SIGMAS, FINAL_SIGMA, THRESHOLD, SOLVER, FLOW, DPM],
        DpmSolverSde => &[SPACING, SIGMAS, &["noise_sampler_seed"]],
        SaSolver => &[SPACING, SIGMAS, THRESHOLD, SA_SOLVER, FLOW, DPM],
        Ipndm => return vec!["num_train_timesteps", "trained_betas", "prediction_type"],
        FlowMatchEulerDiscrete => return FLOW_MATCH.to_vec(),
        // diffusers' has no invert_sigmas; without it, steps of a model that has it would lead away from the picture.
        FlowMatchHeunDiscrete => return vec!["num_train_timesteps", "shift", "invert_sigmas"],
        CmStochasticIterative => return CONSISTENCY.to_vec(),
        UniPcMultistep => &[
            SPACING,
            SIGMAS,
            SIGMA_RANGE,
            ZERO_SNR,
            FINAL_SIGMA,
            THRESHOLD,
            SOLVER,
            FLOW,
            &["predict_x0", "disable_corrector", "solver_p", "shift_terminal"],
        ],
        DeisMultistep => &[SPACING, SIGMAS, THRESHOLD, SOLVER, FLOW, &["algorithm_type"]],
        ScoreSdeVe => {
            return vec!["num_train_timesteps", "snr", "sigma_min", "sigma_max", "sampling_eps", "correct_steps"];
        }
        ScoreSdeVp => return vec!["num_train_timesteps", "beta_min", "beta_max", "sampling_eps"],
        ScoreSdeVpRk45 => return [&["beta_min", "beta_max", "sampling_eps"], TOLERANCE].concat(),
        ProbabilityFlowRk45 => return [&["sigma_min", "sigma_max", "sampling_eps"], TOLERANCE].concat(),
        KarrasVe => return vec!["sigma_min", "sigma_max", "s_noise", "s_churn", "s_min", "s_max"],
        ProbabilityFlow => return [&["sigma_min", "sigma_max", "rho"], CHURN].concat(),
        AnnealedLangevin => return vec!["sigma_min", "sigma_max", "langevin_steps", "langevin_epsilon"],
        EdmEuler | EdmHeun => &[SIGMA_RANGE, FINAL_SIGMA, EDM, CHURN],
        EdmDpmSolverMultistep => {
            &[SIGMA_RANGE, FINAL_SIGMA, EDM, THRESHOLD, SOLVER, FLOW, &["algorithm_type", "euler_at_final"]]
        }
        // Its pipeline says what the key eta would.
        RePaint => &[&["clip_sample", "eta"]],
        Lcm => &[SPACING, CLIP, THRESHOLD, ZERO_SNR, DISTILLED],
        // TCDScheduler has the keys of clipping and thresholding, but does neither.
        Tcd => &[SPACING, ZERO_SNR, DISTILLED],
    };
    [&[COMMON], groups].concat().concat()
}

/// Every key that some class knows.
pub(super) fn known_keys() -> Vec<&'static str> {
    FOREIGN.iter().copied().chain(SchedulerClass::ALL.iter().flat_map(|(class, _)| keys(*class))).collect()
}

impl SchedulerClass {
    /// Whether this class's config has the key.
    pub(super) fn reads(self, key: &str) -> bool {
        keys(self).contains(&key)
    }
}
