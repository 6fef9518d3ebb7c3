//! `UNet2DConditionModel`: predicts the noise in a latent from the latent, the timestep and a text (Rombach et al.
//! 2022; Podell et al. 2023).
//!
//! Only the transformers' second attention sees the text, and its keys and values do not depend on the latent: they are
//! the nodes of the graph that `encoder_hidden_states` alone determines.

use super::embeddings::timestep_embedding;
use super::layers::Layers;
use super::model::{Model, NamedTensors, Sizes};
use super::transformer_2d::AdditionalContext;
use super::unet_2d_condition_blocks::Conditions;
use super::unet_2d_condition_config::{ConditionClassEmbedding, TextTime, UNet2DConditionConfig};
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::{DType, HostTensor};

/// A U-Net with text conditioning.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2DConditionModel {
    /// What it computes.
    pub config: UNet2DConditionConfig,
}

/// Values that are added to those of a model at certain places, each of the shape of what it is added to.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing is added.
    #[default]
    None,
    /// These values, by place.
    Values(Vec<ValueId>),
    /// So many inputs of the graph, f32, which this makes where they are added: NAME.0, NAME.1 …
    Ports {
        /// What they are called.
        name: &'static str,
        /// How many there are.
        count: usize,
        /// Whether they are another in every step; otherwise they belong to the condition.
        each_step: bool,
    },
}

impl Additional {
    /// How many values there are.
    fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Values(values) => values.len(),
            Self::Ports { count, .. } => *count,
        }
    }

    /// `x` with what is for `place` added, or `x` itself if nothing is.
    pub(super) fn add_to(&self, m: &mut Layers<'_>, place: usize, x: ValueId) -> Result<ValueId> {
        if place >= self.count() {
            return Ok(x);
        }
        let (name, value) = match self {
            Self::None => return Ok(x),
            Self::Values(values) => (m.graph.node(values[place]).name.clone(), values[place]),
            Self::Ports { name, each_step, .. } => {
                let (name, desc) = (format!("{name}.{place}"), TensorDesc::f32(m.graph.shape(x)));
                let port = if *each_step { m.graph.input(&*name, desc) } else { m.graph.condition(&*name, desc) };
                (name, port)
            }
        };
        if m.graph.shape(value) != m.graph.shape(x) {
            let (found, expected) = (m.graph.shape(value), m.graph.shape(x));
            return Err(Error::Shape(format!("{name}: expected {expected:?}, found {found:?}")));
        }
        let value = m.graph.cast(format!("{name}.cast"), value, m.dtype)?;
        m.graph.add(format!("{name}.add"), x, value)
    }
}

/// What other networks add within a U-Net, under the names of diffusers' `forward`.
#[derive(Clone, Debug, Default)]
pub struct AdditionalResiduals {
    /// `down_block_additional_residuals` of a ControlNet (Zhang et al. 2023): one for each skip connection, added to it
    /// after the down blocks.
    pub down: Additional,
    /// `mid_block_additional_residual` of a ControlNet: one, added to the mid block's result.
    pub mid: Additional,
    /// `down_intrablock_additional_residuals` of a T2I-Adapter (Mou et al. 2023): one for each down block, added within
    /// it; one more, if given, is added to the mid block's result.
    pub down_intrablock: Additional,
}

impl AdditionalResiduals {
    /// A ControlNet's values as inputs of the graph, `skips` of them for the skip connections:
    /// `down_block_additional_residuals.0` …, `mid_block_additional_residual.0`.
    pub fn controlnet_ports(skips: usize) -> Self {
        Self {
            down: Additional::Ports { name: "down_block_additional_residuals", count: skips, each_step: true },
            mid: Additional::Ports { name: "mid_block_additional_residual", count: 1, each_step: true },
            down_intrablock: Additional::None,
        }
    }

    /// A T2I-Adapter's `features` as inputs of the graph: `down_intrablock_additional_residuals.0` ….
    pub fn adapter_ports(features: usize) -> Self {
        let name = "down_intrablock_additional_residuals";
        Self { down_intrablock: Additional::Ports { name, count: features, each_step: false }, ..Self::default() }
    }
}

/// The values that go into a [`UNet2DConditionModel`], under the names of diffusers' `forward`.
#[derive(Clone, Debug)]
pub struct UNet2DConditionInputs {
    /// `[N, H, W, in_channels]`
    pub sample: ValueId,
    /// `[N]` f32, one for each picture.
    pub timestep: ValueId,
    /// The text: `[N, S, encoder_hid_dim or cross_attention_dim]`.
    pub encoder_hidden_states: ValueId,
    /// `[N, time_cond_proj_dim]`: an embedding of the guidance scale (latent consistency models); none counts as zeros.
    pub timestep_cond: Option<ValueId>,
    /// As [`UNet2DConditionModel::class_labels_desc`].
    pub class_labels: Option<ValueId>,
    /// The text's pooled embedding `[N, P]`, if the config has `text_time`; P and the embedded `time_ids` fill
    /// [`TextTime::input_dim`].
    pub text_embeds: Option<ValueId>,
    /// `[N, K]`: original size, crop, target size …, if the config has `text_time`.
    pub time_ids: Option<ValueId>,
    /// What other networks add within; nothing, unless the caller says so.
    pub additional_residuals: AdditionalResiduals,
    /// What the cross-attentions look at besides the text; nothing, unless the caller says so.
    pub additional_contexts: Vec<AdditionalContext>,
}

impl UNet2DConditionModel {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`UNet2DConditionConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: UNet2DConditionConfig::from_json(json)? })
    }

    /// Shape and element type of the `class_labels` input, if the model takes one.
    pub fn class_labels_desc(&self, batch: usize) -> Option<TensorDesc> {
        match self.config.class_embedding {
            ConditionClassEmbedding::None => None,
            ConditionClassEmbedding::Table(_) => Some(TensorDesc::u32([batch])),
            ConditionClassEmbedding::Timestep => Some(TensorDesc::f32([batch])),
            ConditionClassEmbedding::Identity => Some(TensorDesc::f32([batch, self.config.time_embedding_dim])),
            ConditionClassEmbedding::Projection(width) | ConditionClassEmbedding::SimpleProjection(width) => {
                Some(TensorDesc::f32([batch, width]))
            }
        }
    }

    /// Width of the text that the model sees.
    pub fn text_width(&self) -> usize {
        self.config.encoder_hid_dim.unwrap_or(self.config.cross_attention_dim)
    }

    /// Adds the inputs that the config asks for, besides `sample` and `timestep`, to a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] if `sizes` has more `time_ids` than the model's embedding takes.
    pub fn inputs(
        &self,
        graph: &mut Graph,
        sizes: &Sizes,
        sample: ValueId,
        timestep: ValueId,
    ) -> Result<UNet2DConditionInputs> {
        let (c, batch) = (&self.config, sizes.batch);
        let input =
            |graph: &mut Graph, name: &str, width: usize| graph.condition(name, TensorDesc::f32([batch, width]));
        let text = TensorDesc::f32([batch, sizes.tokens, self.text_width()]);
        let encoder_hidden_states = graph.condition("encoder_hidden_states", text);
        let timestep_cond = c.time_cond_proj_dim.map(|width| input(graph, "timestep_cond", width));
        let class_labels = self.class_labels_desc(batch).map(|desc| graph.condition("class_labels", desc));
        let (mut text_embeds, mut time_ids) = (None, None);
        if let Some(TextTime { time_embed_dim, input_dim }) = c.text_time {
            let embedded = sizes.time_ids * time_embed_dim;
            if sizes.time_ids == 0 || embedded >= input_dim {
                return Err(Error::Shape(format!(
                    "time_ids [N, {}] do not fit: each becomes {time_embed_dim} numbers, together with text_embeds \
                    {input_dim}",
                    sizes.time_ids
                )));
            }
            text_embeds = Some(input(graph, "text_embeds", input_dim - embedded));
            time_ids = Some(input(graph, "time_ids", sizes.time_ids));
        }
        Ok(UNet2DConditionInputs {
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond,
            class_labels,
            text_embeds,
            time_ids,
            additional_residuals: AdditionalResiduals::default(),
            additional_contexts: Vec::new(),
        })
    }

    /// Adds the model to a graph; the result is f32 `[N, H, W, out_channels]`. Height and width may be odd: what an odd
    /// size was halved to is doubled back to it.
    ///
    /// # Errors
    /// [`Error::Shape`] if an input is missing or does not fit, [`Error::Config`] if the config contradicts itself.
    pub fn build(&self, m: &mut Layers<'_>, inputs: UNet2DConditionInputs) -> Result<ValueId> {
        let c = &self.config;
        if m.graph.desc(inputs.encoder_hidden_states).channels() != self.text_width() {
            let found = m.graph.shape(inputs.encoder_hidden_states);
            return Err(Error::Shape(format!(
                "encoder_hidden_states: expected [N, S, {}], found {found:?}",
                self.text_width()
            )));
        }

        // 0. center input if necessary
        let mut sample = inputs.sample;
        if c.center_input_sample {
            sample = m.graph.scale("center_input_sample", sample, 2.0, -1.0)?;
        }
        sample = m.graph.cast("sample.cast", sample, m.dtype)?;

        // 1. time, class and text
        let mut emb = self.time_embedding(m, &inputs)?;
        if let Some(activation) = c.time_embedding_act_fn {
            emb = m.activation("time_embed_act", emb, activation)?;
        }
        let temb = m.activation("temb.act", emb, c.act_fn)?;
        let mut text = m.graph.cast("encoder_hidden_states.cast", inputs.encoder_hidden_states, m.dtype)?;
        if c.encoder_hid_dim.is_some() {
            text = m.linear("encoder_hid_proj", text, c.cross_attention_dim, true)?;
        }
        let contexts = self.contexts(m, &inputs)?;
        let conditions = Conditions { emb, temb, text, contexts: &contexts };
        let additional = &inputs.additional_residuals;

        // 2. pre-process
        let same_size = |kernel: usize| Conv2d { padding: [kernel / 2; 4], ..Conv2d::default() };
        let channels = c.down_blocks[0].channels;
        let mut h = m.conv2d("conv_in", sample, channels, c.conv_in_kernel, same_size(c.conv_in_kernel))?;

        // 3. down
        let mut skips = vec![h];
        for level in 0..c.down_blocks.len() {
            h = c.down_block(m, level, h, conditions, &additional.down_intrablock, &mut skips)?;
        }
        if ![0, skips.len()].contains(&additional.down.count()) {
            return Err(Error::Shape(format!(
                "down_block_additional_residuals: expected {}, one for each skip connection, found {}",
                skips.len(),
                additional.down.count()
            )));
        }
        for (i, skip) in skips.iter_mut().enumerate() {
            *skip = additional.down.add_to(m, i, *skip)?;
        }

        // 4. mid
        if let Some(block) = &c.mid_block {
            h = c.build_mid_block(m, block, h, conditions)?;
        }
        h = additional.down_intrablock.add_to(m, c.down_blocks.len(), h)?;
        h = additional.mid.add_to(m, 0, h)?;

        // 5. up
        for level in 0..c.up_blocks.len() {
            h = c.up_block(m, level, h, conditions, &mut skips)?;
        }

        // 6. post-process
        let h = m.group_norm("conv_norm_out", h, c.norm_num_groups, c.norm_eps)?;
        let h = m.activation("conv_act", h, c.act_fn)?;
        let out = m.conv2d("conv_out", h, c.out_channels, c.conv_out_kernel, same_size(c.conv_out_kernel))?;
        m.graph.cast("out.cast", out, DType::F32)
    }

    /// The additional contexts, stored as the model's activations are.
    fn contexts(&self, m: &mut Layers<'_>, inputs: &UNet2DConditionInputs) -> Result<Vec<AdditionalContext>> {
        let contexts = inputs.additional_contexts.iter();
        let cast = contexts.map(|context| {
            let name = format!("{}.cast", m.graph.node(context.hidden_states).name);
            let hidden_states = m.graph.cast(name, context.hidden_states, m.dtype)?;
            Ok(AdditionalContext { hidden_states, ..context.clone() })
        });
        cast.collect()
    }

    /// The embedding `[N, E]` of everything that is not picture or text tokens.
    fn time_embedding(&self, m: &mut Layers<'_>, inputs: &UNet2DConditionInputs) -> Result<ValueId> {
        let c = &self.config;

        // 1. the timestep, and the guidance scale of distilled models
        let mut t = self.sinusoidal(m, "time_proj", inputs.timestep, c.down_blocks[0].channels)?;
        t = m.graph.cast("time_proj.cast", t, m.dtype)?;
        if let (Some(cond), true) = (inputs.timestep_cond, c.time_cond_proj_dim.is_some()) {
            let cond = m.graph.cast("timestep_cond.cast", cond, m.dtype)?;
            let cond = m.linear("time_embedding.cond_proj", cond, c.down_blocks[0].channels, false)?;
            t = m.graph.add("time_embedding.add_cond", t, cond)?;
        }
        let mut emb = timestep_embedding(m, "time_embedding", t, c.time_embedding_dim, c.act_fn)?;
        if let Some(activation) = c.timestep_post_act {
            emb = m.activation("time_embedding.post_act", emb, activation)?;
        }

        // 2. the class
        if let Some(class) = self.class_embedding(m, inputs.class_labels)? {
            emb = if c.class_embeddings_concat {
                m.graph.concat("concat_class_embedding", emb, class, -1)?
            } else {
                m.graph.add("add_class_embedding", emb, class)?
            };
        }

        // 3. the pooled text and the numbers about the picture
        if let Some(TextTime { time_embed_dim, .. }) = c.text_time {
            let missing =
                || Error::Shape("this model (addition_embed_type text_time) needs text_embeds and time_ids".into());
            let (text, ids) = inputs.text_embeds.zip(inputs.time_ids).ok_or_else(missing)?;
            let ids = self.sinusoidal(m, "add_time_proj", ids, time_embed_dim)?;
            let both = m.graph.concat("add_embeds", text, ids, -1)?;
            let both = m.graph.cast("add_embeds.cast", both, m.dtype)?;
            let added = timestep_embedding(m, "add_embedding", both, c.time_embedding_dim, ActivationKind::Silu)?;
            emb = m.graph.add("add_aug_emb", emb, added)?;
        }
        Ok(emb)
    }

    /// `t [N]` or `[N, K]` → f32 `[N, K·dim]`.
    fn sinusoidal(&self, m: &mut Layers<'_>, path: &str, t: ValueId, dim: usize) -> Result<ValueId> {
        let (flip_sin_to_cos, freq_shift) = (self.config.flip_sin_to_cos, self.config.freq_shift);
        m.graph.timestep_embedding(
            path,
            t,
            TimestepEmbedding { dim, flip_sin_to_cos, freq_shift, max_period: 10_000.0, scale: 1.0 },
        )
    }

    fn class_embedding(&self, m: &mut Layers<'_>, labels: Option<ValueId>) -> Result<Option<ValueId>> {
        let c = &self.config;
        if c.class_embedding == ConditionClassEmbedding::None {
            return Ok(None);
        }
        let labels = labels.ok_or_else(|| Error::Shape("this model needs class_labels".into()))?;
        const PATH: &str = "class_embedding";
        let out = c.time_embedding_dim;
        let cast = |m: &mut Layers<'_>, x: ValueId| m.graph.cast("class_labels.cast", x, m.dtype);
        Ok(Some(match c.class_embedding {
            ConditionClassEmbedding::None => return Ok(None),
            ConditionClassEmbedding::Table(rows) => m.embedding(PATH, labels, rows, out)?,
            ConditionClassEmbedding::Timestep => {
                let labels = self.sinusoidal(m, "class_proj", labels, c.down_blocks[0].channels)?;
                let labels = cast(m, labels)?;
                timestep_embedding(m, PATH, labels, out, c.act_fn)?
            }
            ConditionClassEmbedding::Identity => cast(m, labels)?,
            ConditionClassEmbedding::Projection(_) => {
                let labels = cast(m, labels)?;
                timestep_embedding(m, PATH, labels, out, ActivationKind::Silu)?
            }
            ConditionClassEmbedding::SimpleProjection(_) => {
                let labels = cast(m, labels)?;
                m.linear(PATH, labels, out, true)?
            }
        }))
    }
}

impl Model for UNet2DConditionModel {
    fn input_names(&self) -> Vec<&'static str> {
        let c = &self.config;
        let mut names = vec!["sample", "timestep", "encoder_hidden_states"];
        names.extend(c.time_cond_proj_dim.map(|_| "timestep_cond"));
        names.extend((c.class_embedding != ConditionClassEmbedding::None).then_some("class_labels"));
        names.extend(c.text_time.iter().flat_map(|_| ["text_embeds", "time_ids"]));
        names
    }

    fn default_sizes(&self) -> Sizes {
        let (height, width) = self.config.sample_size.unwrap_or((64, 64));
        // Six numbers are usual: original size, crop, target size.
        let time_ids = self.config.text_time.map_or(0, |t| ((t.input_dim - 1) / t.time_embed_dim).min(6));
        Sizes { height, width, time_ids, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let sample =
            graph.input("sample", TensorDesc::f32([sizes.batch, sizes.height, sizes.width, self.config.in_channels]));
        let timestep = graph.input("timestep", TensorDesc::f32([sizes.batch]));
        let inputs = self.inputs(&mut graph, sizes, sample, timestep)?;
        let out = self.build(&mut Layers::new(&mut graph, dtype), inputs)?;
        graph.output("sample", out);
        Ok(graph)
    }

    fn index_bound(&self, input: &str) -> Option<usize> {
        match self.config.class_embedding {
            ConditionClassEmbedding::Table(rows) if input == "class_labels" => Some(rows),
            _ => None,
        }
    }

    fn complete(&self, inputs: &mut NamedTensors) -> Result<()> {
        if let Some(width) = self.config.time_cond_proj_dim
            && let Some(batch) = inputs.get("sample").map(|s| s.shape[0])
        {
            // A projection without a bias turns zeros into zeros, so it can be left out.
            inputs.entry("timestep_cond".into()).or_insert_with(|| HostTensor::zeros([batch, width]));
        }
        Ok(())
    }
}
