//! The values that scheduler configs name by strings.

/// Declares an enum whose values are named in config files, with the two conversions.
macro_rules! named_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Named for $name {
            const ALL: &'static [($name, &'static str)] = &[$(($name::$variant, $text),)+];
        }
    };
}

/// A set of values that config files name by strings.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// Every value with its name.
    const ALL: &'static [(Self, &'static str)];
}

named_values! {
    /// A scheduler class, by its name in diffusers.
    SchedulerClass {
        /// Ho et al. 2020.
        Ddpm = "DDPMScheduler",
        /// Song et al. 2020.
        Ddim = "DDIMScheduler",
        /// Song et al. 2020, section 4.3: from a picture to its noise.
        DdimInverse = "DDIMInverseScheduler",
        /// Liu et al. 2022.
        Pndm = "PNDMScheduler",
        /// Linear multistep, Katherine Crowson's k-diffusion.
        LmsDiscrete = "LMSDiscreteScheduler",
        /// Karras et al. 2022, algorithm 2 without its second order.
        EulerDiscrete = "EulerDiscreteScheduler",
        /// Euler steps with fresh noise, k-diffusion.
        EulerAncestralDiscrete = "EulerAncestralDiscreteScheduler",
        /// Karras et al. 2022, algorithm 1.
        HeunDiscrete = "HeunDiscreteScheduler",
        /// Midpoint steps, k-diffusion.
        Kdpm2Discrete = "KDPM2DiscreteScheduler",
        /// Midpoint steps with fresh noise, k-diffusion.
        Kdpm2AncestralDiscrete = "KDPM2AncestralDiscreteScheduler",
        /// Lu et al. 2022, multistep.
        DpmSolverMultistep = "DPMSolverMultistepScheduler",
        /// Lu et al. 2022, singlestep.
        DpmSolverSinglestep = "DPMSolverSinglestepScheduler",
        /// Zhao et al. 2023.
        UniPcMultistep = "UniPCMultistepScheduler",
        /// Zhang & Chen 2022.
        DeisMultistep = "DEISMultistepScheduler",
        /// Midpoint steps of DPM-Solver++ along a Brownian path, k-diffusion.
        DpmSolverSde = "DPMSolverSDEScheduler",
        /// Xue et al. 2023.
        SaSolver = "SASolverScheduler",
        /// Liu et al. 2022, for models of a continuous time.
        Ipndm = "IPNDMScheduler",
        /// Karras et al. 2022: Euler steps for models in their own frame.
        EdmEuler = "EDMEulerScheduler",
        /// The same models with DPM-Solver++.
        EdmDpmSolverMultistep = "EDMDPMSolverMultistepScheduler",
        /// The same models with Heun's steps, algorithm 2 of the paper. Not in diffusers.
        EdmHeun = "EDMHeunScheduler",
        /// Karras et al. 2022, algorithm 2 in the frame of models of the score.
        KarrasVe = "KarrasVeScheduler",
        /// Song et al. 2021: predictor and corrector, noise that grows without end.
        ScoreSdeVe = "ScoreSdeVeScheduler",
        /// Song et al. 2021: the ODE of the same models, by Heun's method. Not in diffusers.
        ProbabilityFlow = "ProbabilityFlowScheduler",
        /// Song et al. 2021: the same ODE by Runge and Kutta's method with steps of its own choice. Not in diffusers.
        ProbabilityFlowRk45 = "ProbabilityFlowRK45Scheduler",
        /// Song & Ermon 2019: Langevin dynamics at falling noise levels. Not in diffusers.
        AnnealedLangevin = "AnnealedLangevinScheduler",
        /// Song et al. 2021: the SDE that preserves the variance.
        ScoreSdeVp = "ScoreSdeVpScheduler",
        /// The ODE of the same models, with steps of its own choice. Not in diffusers.
        ScoreSdeVpRk45 = "ScoreSdeVpRK45Scheduler",
        /// Lipman et al. 2022, Liu et al. 2022: Euler steps along straight lines.
        FlowMatchEulerDiscrete = "FlowMatchEulerDiscreteScheduler",
        /// The same with Heun's steps.
        FlowMatchHeunDiscrete = "FlowMatchHeunDiscreteScheduler",
        /// Song et al. 2023: jumps of a consistency model.
        CmStochasticIterative = "CMStochasticIterativeScheduler",
        /// Lugmayr et al. 2022: painting into a part of a picture.
        RePaint = "RePaintScheduler",
        /// Luo et al. 2023.
        Lcm = "LCMScheduler",
        /// Zheng et al. 2024.
        Tcd = "TCDScheduler",
    }
}

/// What a model was trained with, and so which schedulers understand its samples and tell it what it understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Numbered timesteps of a table of β (Ho et al. 2020); nearly all models.
    Timesteps,
    /// Noise levels σ without end, and a preconditioned model (Karras et al. 2022).
    Edm,
    /// Pictures from 0 to 1 with noise σ added, of which the model returns the score (Song et al. 2021).
    Score,
    /// A continuous time from 0 to 1, of a process that preserves the variance (Song et al. 2021).
    VariancePreserving,
    /// A continuous time from 0 to 1, an angle (Dance Diffusion).
    ContinuousTime,
    /// A way from noise to picture, whose velocity the model returns (Lipman et al. 2022).
    Flow,
    /// Noise levels σ from which the model jumps to the clean picture (Song et al. 2023).
    Consistency,
}

impl SchedulerClass {
    /// The models that it is for.
    pub fn frame(self) -> Frame {
        match self {
            Self::EdmEuler | Self::EdmHeun | Self::EdmDpmSolverMultistep => Frame::Edm,
            Self::ScoreSdeVe
            | Self::ProbabilityFlow
            | Self::ProbabilityFlowRk45
            | Self::KarrasVe
            | Self::AnnealedLangevin => Frame::Score,
            Self::ScoreSdeVp | Self::ScoreSdeVpRk45 => Frame::VariancePreserving,
            Self::Ipndm => Frame::ContinuousTime,
            Self::FlowMatchEulerDiscrete | Self::FlowMatchHeunDiscrete => Frame::Flow,
            Self::CmStochasticIterative => Frame::Consistency,
            _ => Frame::Timesteps,
        }
    }

    /// The name in diffusers, which is also the `_class_name` in config files.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(class, _)| *class == self).expect("ALL lists every variant").1
    }
}

named_values! {
    /// How β runs over the training timesteps; formulas in `betas.rs`.
    BetaSchedule {
        /// Evenly spaced.
        Linear = "linear",
        /// √β evenly spaced (latent diffusion).
        ScaledLinear = "scaled_linear",
        /// From a cosine-shaped ᾱ.
        SquaredcosCapV2 = "squaredcos_cap_v2",
        /// From an exponentially falling ᾱ.
        Exp = "exp",
        /// From a Laplace-shaped distribution of log SNR.
        Laplace = "laplace",
        /// A logistic curve (GeoDiff).
        Sigmoid = "sigmoid",
    }
}

named_values! {
    /// What the model returns, for x_t = √ᾱ x_0 + √(1−ᾱ) ε.
    PredictionType {
        /// ε.
        Epsilon = "epsilon",
        /// x_0.
        Sample = "sample",
        /// v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans & Ho 2022, arXiv:2202.00512).
        VPrediction = "v_prediction",
    }
}

named_values! {
    /// Which of the T trained timesteps a run of n steps visits.
    TimestepSpacing {
        /// Evenly from T − 1 down to 0.
        Linspace = "linspace",
        /// Multiples of T/n rounded down, plus `steps_offset`; never reaches T − 1.
        Leading = "leading",
        /// Multiples of T/n counted down from T, minus 1; never reaches 0.
        Trailing = "trailing",
    }
}

named_values! {
    /// DDPM's choice of the variance of p(x_{t-1} | x_t).
    VarianceType {
        /// β̃_t, the posterior's (Ho et al. 2020, eq. 7).
        FixedSmall = "fixed_small",
        /// The same, through a logarithm.
        FixedSmallLog = "fixed_small_log",
        /// β_t.
        FixedLarge = "fixed_large",
        /// The same, through a logarithm.
        FixedLargeLog = "fixed_large_log",
        /// The model's extra channels are the variance.
        Learned = "learned",
        /// The model's extra channels interpolate between log β̃_t and log β_t (Nichol & Dhariwal 2021, eq. 15).
        LearnedRange = "learned_range",
    }
}

named_values! {
    /// How Euler's noise levels follow from its timesteps.
    InterpolationType {
        /// Those of the training timesteps, linear between two.
        Linear = "linear",
        /// Evenly spaced in log σ, whatever the timesteps.
        LogLinear = "log_linear",
    }
}

named_values! {
    /// What Euler tells the model.
    TimestepType {
        /// The timestep.
        Discrete = "discrete",
        /// ¼ ln σ (for `v_prediction`).
        Continuous = "continuous",
    }
}

named_values! {
    /// How the noise levels of an EDM scheduler are spaced.
    SigmaSchedule {
        /// Karras et al. 2022, eq. 5.
        Karras = "karras",
        /// Evenly in ln σ (CosXL).
        Exponential = "exponential",
    }
}

named_values! {
    /// The noise level after the last step.
    FinalSigmasType {
        /// None: σ = 0.
        Zero = "zero",
        /// That of timestep 0.
        SigmaMin = "sigma_min",
    }
}

named_values! {
    /// Which equation a solver takes its steps in.
    AlgorithmType {
        /// The ODE, in terms of ε (Lu et al. 2022, arXiv:2206.00927).
        DpmSolver = "dpmsolver",
        /// The ODE, in terms of x_0 (Lu et al. 2022, arXiv:2211.01095).
        DpmSolverPlusPlus = "dpmsolver++",
        /// The SDE, in terms of ε.
        SdeDpmSolver = "sde-dpmsolver",
        /// The SDE, in terms of x_0.
        SdeDpmSolverPlusPlus = "sde-dpmsolver++",
        /// DEIS's own; for the DPM-Solvers the same as `dpmsolver++`.
        Deis = "deis",
    }
}

named_values! {
    /// What SA-Solver integrates.
    SaAlgorithmType {
        /// x_0.
        DataPrediction = "data_prediction",
        /// ε.
        NoisePrediction = "noise_prediction",
    }
}

named_values! {
    /// Variants of a solver's second and third order. Each class knows some and takes the others for its default.
    SolverType {
        /// DPM-Solver.
        Midpoint = "midpoint",
        /// DPM-Solver.
        Heun = "heun",
        /// DEIS.
        Logrho = "logrho",
        /// UniPC.
        Bh1 = "bh1",
        /// UniPC.
        Bh2 = "bh2",
    }
}

/// Where a run's noise levels come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigmaSpacing {
    /// From the timesteps it visits.
    Timesteps,
    /// Karras et al. 2022 (arXiv:2206.00364), eq. 5, ρ = 7 (`use_karras_sigmas`).
    Karras,
    /// Evenly spaced in log σ (`use_exponential_sigmas`).
    Exponential,
    /// Quantiles of a beta distribution (`use_beta_sigmas`; Lee et al. 2024, arXiv:2407.12173).
    Beta,
    /// Evenly spaced in log SNR (`use_lu_lambdas`; Lu et al. 2022, arXiv:2206.00927).
    Lu,
}

/// What is done to the estimate of x_0 before it is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Nothing.
    None,
    /// Clamped to [−range, range] (`clip_sample`, `clip_sample_range`).
    Range(f64),
    /// Dynamic thresholding (`thresholding`; Saharia et al. 2022, arXiv:2205.11487, section 2.3): for each batch
    /// element, s is the `ratio`-quantile of |x_0|, at least 1 and at most `max`; x_0 is clamped to [−s, s] and divided
    /// by s.
    Dynamic {
        /// `dynamic_thresholding_ratio`.
        ratio: f64,
        /// `sample_max_value`.
        max: f64,
    },
}
