//! `UNet2DModel`: predicts the noise in a picture from the picture, the timestep, and possibly a class (Ho et al. 2020;
//! Dhariwal and Nichol 2021), or as NCSN++ the score of noised pictures from σ (Song et al. 2021).

use super::embeddings::timestep_embedding;
use super::layers::Layers;
use super::model::{Model, Sizes};
use super::unet_2d_config::{ClassEmbedding, TimeEmbedding, UNet2DConfig};
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::fourier_embedding::FourierEmbedding;
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::DType;

/// A U-Net without text conditioning.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2DModel {
    /// What it computes.
    pub config: UNet2DConfig,
}

/// The values that go into a [`UNet2DModel`].
#[derive(Clone, Copy, Debug)]
pub struct UNet2DInputs {
    /// `[N, H, W, in_channels]`
    pub sample: ValueId,
    /// `[N]` f32, one for each picture; σ for [`TimeEmbedding::Fourier`].
    pub timestep: ValueId,
    /// u32 `[N]` for a table, f32 `[N]` for [`ClassEmbedding::Timestep`], f32 `[N, time_embedding_dim]` for
    /// [`ClassEmbedding::Identity`].
    pub class_labels: Option<ValueId>,
}

impl UNet2DModel {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`UNet2DConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: UNet2DConfig::from_json(json)? })
    }

    /// Checks that a picture of `height` × `width` can be halved and doubled as often as the model does.
    ///
    /// # Errors
    /// [`Error::Shape`] with the nearest sizes that fit.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let multiple = 1usize << self.config.halvings().min(24);
        if height == 0 || width == 0 || !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            let near = |v: usize| v.next_multiple_of(multiple).max(multiple);
            return Err(Error::Shape(format!(
                "a picture {height} high and {width} wide cannot be halved {} times; height and width must be \
                multiples of {multiple}, e.g. {} and {}",
                self.config.halvings(),
                near(height),
                near(width)
            )));
        }
        Ok(())
    }

    /// Shape and element type of the `class_labels` input, if the model takes one.
    pub fn class_labels_desc(&self, batch: usize) -> Option<TensorDesc> {
        match self.config.class_embedding {
            ClassEmbedding::None => None,
            ClassEmbedding::Table(_) => Some(TensorDesc::u32([batch])),
            ClassEmbedding::Timestep(_) => Some(TensorDesc::f32([batch])),
            ClassEmbedding::Identity => Some(TensorDesc::f32([batch, self.config.time_embedding_dim])),
        }
    }

    /// Names and shapes of all parameters, as they are in the checkpoint.
    ///
    /// # Errors
    /// [`Error::Config`] if the config contradicts itself.
    pub fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let size = 1 << self.config.halvings().min(12);
        let graph = self.graph(1, size, size, DType::F32)?;
        Ok(graph.weight_parts().into_iter().map(|p| (p.name.clone(), p.shape.clone())).collect())
    }

    /// A graph of one forward pass: inputs `sample` `[N, H, W, C]`, `timestep` `[N]` and `class_labels` if the model
    /// takes them; output `sample` `[N, H, W, out_channels]`. Inputs and output are f32, everything between is stored
    /// as `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the size does not fit, [`Error::Config`] if the config contradicts itself.
    pub fn graph(&self, batch: usize, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let sample = graph.input("sample", TensorDesc::f32([batch, height, width, self.config.in_channels]));
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let class_labels = self.class_labels_desc(batch).map(|desc| graph.condition("class_labels", desc));
        let out = self.build(&mut Layers::new(&mut graph, dtype), UNet2DInputs { sample, timestep, class_labels })?;
        graph.output("sample", out);
        Ok(graph)
    }

    /// Adds the model to a graph; the result is f32 `[N, H, W, out_channels]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the size does not fit, [`Error::Config`] if the config contradicts itself.
    pub fn build(&self, m: &mut Layers<'_>, inputs: UNet2DInputs) -> Result<ValueId> {
        let c = &self.config;
        let (height, width) = (m.graph.shape(inputs.sample)[1], m.graph.shape(inputs.sample)[2]);
        self.check_size(height, width)?;

        // 0. center input if necessary
        let mut sample = inputs.sample;
        if c.center_input_sample {
            sample = m.graph.scale("center_input_sample", sample, 2.0, -1.0)?;
        }
        sample = m.graph.cast("sample.cast", sample, m.dtype)?;

        // 1. time and class
        let temb = self.time_embedding(m, inputs)?;
        // Every residual block activates the embedding before it projects it: once is enough.
        let temb = m.activation("temb.act", temb, c.act_fn)?;

        // 2. pre-process
        let mut h = m.conv3x3("conv_in", sample, c.block_out_channels[0])?;

        // 3. down
        let (mut skips, mut picture) = (vec![h], sample);
        for level in 0..c.down_block_types.len() {
            h = if c.down_block_types[level].skips() {
                c.skip_down_block(m, level, h, temb, &mut picture, &mut skips)?
            } else {
                c.down_block(m, level, h, temb, &mut skips)?
            };
        }

        // 4. mid
        if c.mid_block {
            h = c.mid_block(m, h, temb)?;
        }

        // 5. up; NCSN++ adds to a picture as it goes
        let mut picture = None;
        for level in 0..c.up_block_types.len() {
            h = if c.up_block_types[level].skips() {
                c.skip_up_block(m, level, h, temb, &mut picture, &mut skips)?
            } else {
                c.up_block(m, level, h, temb, &mut skips)?
            };
        }

        // 6. post-process
        let h = m.group_norm("conv_norm_out", h, c.groups(c.block_out_channels[0]), c.norm_eps)?;
        let h = m.activation("conv_act", h, ActivationKind::Silu)?;
        let mut out = m.conv3x3("conv_out", h, c.out_channels)?;
        if let Some(picture) = picture {
            out = m.graph.add("add_picture", out, picture)?;
        }
        let out = m.graph.cast("out.cast", out, DType::F32)?;
        match c.time_embedding_type {
            TimeEmbedding::Positional => Ok(out),
            TimeEmbedding::Fourier => {
                // The network estimates minus the noise; over σ it is the score (Song et al. 2021, appendix C).
                let images = m.graph.shape(inputs.timestep)[0];
                let sigma = m.graph.reshape("sigma", inputs.timestep, [images, 1, 1, 1])?;
                m.graph.div("score", out, sigma)
            }
        }
    }

    fn time_embedding(&self, m: &mut Layers<'_>, inputs: UNet2DInputs) -> Result<ValueId> {
        let c = &self.config;
        let positional = TimestepEmbedding {
            dim: c.block_out_channels[0],
            flip_sin_to_cos: c.flip_sin_to_cos,
            freq_shift: c.freq_shift,
            max_period: 10_000.0,
            scale: 1.0,
        };
        let frequencies = match c.time_embedding_type {
            TimeEmbedding::Positional => None,
            TimeEmbedding::Fourier => Some(m.frequencies("time_proj", c.block_out_channels[0])),
        };
        let project = |m: &mut Layers<'_>, path: &str, t: ValueId| {
            let x = match frequencies {
                None => m.graph.timestep_embedding(path, t, positional.clone())?,
                Some(weight) => {
                    let logarithm = FourierEmbedding { log: true, flip_sin_to_cos: false };
                    m.graph.fourier_embedding(path, t, weight, logarithm)?
                }
            };
            m.graph.cast(format!("{path}.cast"), x, m.dtype)
        };
        let t = project(m, "time_proj", inputs.timestep)?;
        let temb = timestep_embedding(m, "time_embedding", t, c.time_embedding_dim, ActivationKind::Silu)?;
        let labels = || {
            inputs
                .class_labels
                .ok_or_else(|| Error::Shape("this model is class-conditional: it needs class_labels".into()))
        };
        let class = match c.class_embedding {
            ClassEmbedding::None => return Ok(temb),
            ClassEmbedding::Table(rows) => m.embedding("class_embedding", labels()?, rows, c.time_embedding_dim)?,
            ClassEmbedding::Timestep(_) => {
                let labels = project(m, "class_proj", labels()?)?;
                timestep_embedding(m, "class_embedding", labels, c.time_embedding_dim, ActivationKind::Silu)?
            }
            ClassEmbedding::Identity => m.graph.cast("class_labels.cast", labels()?, m.dtype)?,
        };
        m.graph.add("add_class_embedding", temb, class)
    }
}

impl Model for UNet2DModel {
    fn input_names(&self) -> Vec<&'static str> {
        let class_labels = (self.config.class_embedding != ClassEmbedding::None).then_some("class_labels");
        ["sample", "timestep"].into_iter().chain(class_labels).collect()
    }

    fn default_sizes(&self) -> Sizes {
        let least = 1 << self.config.halvings().min(12);
        let (height, width) = self.config.sample_size.unwrap_or((least, least));
        Sizes { height, width, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        UNet2DModel::graph(self, sizes.batch, sizes.height, sizes.width, dtype)
    }

    fn index_bound(&self, input: &str) -> Option<usize> {
        match self.config.class_embedding {
            ClassEmbedding::Table(rows) if input == "class_labels" => Some(rows),
            _ => None,
        }
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        UNet2DModel::parameters(self)
    }
}
