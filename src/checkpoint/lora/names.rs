//! How the tensors of an adapter are named: what each of them is, and which module of which component it changes. One
//! table for each question; a new writer is a new row.

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Down,
    Up,
    Mid,
    Alpha,
    /// DoRA's magnitudes.
    Magnitude,
    /// DoRA's magnitudes as PEFT writes them: always one for each output.
    OutputMagnitude,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    HadaT1,
    HadaT2,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    Diff,
    DiffBias,
}

/// What a tensor's name ends with, and what the tensor then is.
const ROLES: &[(&str, Role)] = &[
    // kohya's sd-scripts
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid), // LyCORIS: LoCon with a core for the kernel
    (".alpha", Role::Alpha),
    // PEFT; with the adapter's name between, see `role`
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_magnitude_vector.weight", Role::OutputMagnitude),
    (".lora_magnitude_vector", Role::OutputMagnitude),
    // diffusers 0.2x
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    // diffusers' attention processors: `attn1.processor.to_q_lora.down.weight`, `self_attn.to_q_lora.down.weight`
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    // LyCORIS
    (".dora_scale", Role::Magnitude),
    (".hada_w1_a", Role::HadaW1A),
    (".hada_w1_b", Role::HadaW1B),
    (".hada_w2_a", Role::HadaW2A),
    (".hada_w2_b", Role::HadaW2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::LokrW1),
    (".lokr_w1_a", Role::LokrW1A),
    (".lokr_w1_b", Role::LokrW1B),
    (".lokr_w2", Role::LokrW2),
    (".lokr_w2_a", Role::LokrW2A),
    (".lokr_w2_b", Role::LokrW2B),
    (".lokr_t2", Role::LokrT2),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".w_norm", Role::Diff),
    (".b_norm", Role::DiffBias),
];

/// What a layer's name begins with, and the component it belongs to.
const PLACES: &[(&str, &str)] = &[
    // kohya
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    // LyCORIS' name for itself; without the second word it is for a model by itself, see `place`
    ("lycoris_unet_", "unet"),
    ("lycoris_", "unet"),
    // diffusers; OneTrainer's `unet.` has the original names behind it
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    // ComfyUI
    ("diffusion_model.", "unet"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_h.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    // OneTrainer
    ("clip_l.", "text_encoder"),
    ("clip_g.", "text_encoder_2"),
    // PEFT: a model saved by itself, see `place`
    ("base_model.model.", "unet"),
    ("", "unet"), // diffusers' `save_attn_procs`
];

/// The projections of a text encoder as diffusers 0.15 to 0.17 called them.
const TEXT_PROJECTIONS: &[(&str, &str)] =
    &[("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];

/// How the modules of a text encoder begin, as they are looked up.
const TOWER: &str = "encoder_layers_";

/// Parts of names of adapters that are not read.
const FOREIGN: &[&str] = &["oft_", "boft_", "glora", "on_input", ".set_weight", ".reshape_weight", "ia3_l"];

/// The layer that a tensor belongs to, and what it is to it.
pub(super) fn role(name: &str) -> Option<(&str, Role)> {
    if let Some(found) = ROLES.iter().find_map(|&(end, role)| Some((name.strip_suffix(end)?, role))) {
        return Some(found);
    }
    // PEFT keeps the adapter's name: `X.lora_A.default.weight`, `X.lora_B.style_0.weight`.
    let (rest, _) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let role = |end: &str, role| Some((rest.strip_suffix(end)?, role));
    role(".lora_A", Role::Down)
        .or_else(|| role(".lora_B", Role::Up))
        .or_else(|| role(".lora_magnitude_vector", Role::OutputMagnitude))
}

/// Whether a tensor belongs to a kind of adapter that is not read.
pub(super) fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|part| name.contains(part))
}

/// The word of a textual inversion that OneTrainer and AUTOMATIC1111 put into a LoRA's file, and which of its vectors
/// the tensor is: `bundle_emb.WORD.emb_params`.
pub(super) fn bundled(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("bundle_emb.")?;
    rest.split_once(".string_to_param.").or_else(|| rest.rsplit_once('.'))
}

/// The component and the module that a layer's name means.
pub(super) fn place(name: &str) -> (&'static str, String) {
    let (rest, component) = PLACES
        .iter()
        .find_map(|&(begin, component)| Some((name.strip_prefix(begin)?, component)))
        .expect("the last begins every name");
    // Attention processors: `attn1.processor.to_out_lora` is `attn1.to_out.0`.
    let mut module = match rest.split_once(".processor.") {
        Some((attention, projection)) => {
            format!("{attention}.{}", if projection == "to_out" { "to_out.0" } else { projection })
        }
        None => rest.to_owned(),
    };
    if let Some((attention, projection)) = module.rsplit_once(".self_attn.")
        && let Some((_, today)) = TEXT_PROJECTIONS.iter().find(|(old, _)| *old == projection)
    {
        module = format!("{attention}.self_attn.{today}");
    }
    let module = lookup_name(&module);
    // Adapters of a model by itself do not say which it is. A U-Net has no such modules.
    let component = if component == "unet" && module.starts_with(TOWER) { "text_encoder" } else { component };
    (component, module)
}

/// `.` and `_` are the same to kohya; whether `text_model.` stands before a text encoder's modules depends on the
/// version.
pub(super) fn lookup_name(module: &str) -> String {
    let name = module.replace('.', "_");
    name.strip_prefix("text_model_").map(str::to_owned).unwrap_or(name)
}
