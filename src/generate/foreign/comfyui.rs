//! ComfyUI's pictures: the text `prompt` is the graph that made them, as JSON: nodes by number, each with its class and
//! its inputs, which are values or links `[node, output]`.

use serde_json::{Map, Value};

use super::{Foreign, file_name};
use crate::checkpoint::Json;
use crate::generate::parameters::with_word;
use crate::request::Rng;

/// Links are followed so far; a graph of someone's making may go round in circles.
const DEPTH: usize = 64;

/// Reads it: the first sampler that begins with noise or a picture, and what leads to it.
///
/// # Errors
/// If it is no graph, or has no such sampler.
pub fn read(text: &str) -> Result<Foreign, String> {
    let Ok(Value::Object(nodes)) = Json::parse("prompt", text.to_owned()).map(|json| json.value) else {
        return Err("its text chunk `prompt` is not a graph of ComfyUI".to_owned());
    };
    let graph = Graph { nodes: &nodes };
    let mut samplers: Vec<Node> = graph.all().filter(Node::is_sampler).collect();
    samplers.sort_by_key(|node| (graph.later(node), node.id.parse::<usize>().unwrap_or(usize::MAX)));
    let Some((first, others)) = samplers.split_first() else {
        return Err("its graph has no KSampler".to_owned());
    };
    let mut found = Foreign { program: "ComfyUI".to_owned(), ..Foreign::default() };
    found.request.rng = Some(Rng::TorchCpu);
    graph.sampler(first, &mut found);
    for other in others {
        found.left_out.push(format!("a second pass by node {} ({})", other.id, other.class));
    }
    for vae in graph.all().filter_map(|node| node.inputs.get("vae_name")?.as_str()) {
        found.skip("VAE", vae, "give `vae`");
    }
    Ok(found)
}

#[derive(Clone, Copy)]
struct Node<'a> {
    id: &'a str,
    class: &'a str,
    inputs: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    fn is_sampler(&self) -> bool {
        ["sampler_name", "steps", "positive", "latent_image"].iter().all(|name| self.inputs.contains_key(*name))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.inputs.get(name)?.as_f64()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.inputs.get(name)?.as_str()
    }
}

struct Graph<'a> {
    nodes: &'a Map<String, Value>,
}

impl<'a> Graph<'a> {
    fn all(&self) -> impl Iterator<Item = Node<'a>> {
        self.nodes.keys().filter_map(|id| self.node(id))
    }

    fn node(&self, id: &str) -> Option<Node<'a>> {
        let (id, node) = self.nodes.get_key_value(id)?;
        Some(Node { id, class: node["class_type"].as_str()?, inputs: node["inputs"].as_object()? })
    }

    /// The node that an input is linked to.
    fn source(&self, node: &Node<'_>, input: &str) -> Option<Node<'a>> {
        self.linked(node.inputs.get(input)?)
    }

    fn linked(&self, value: &Value) -> Option<Node<'a>> {
        match value.as_array()?.first()? {
            Value::String(id) => self.node(id),
            Value::Number(id) => self.node(&id.to_string()),
            _ => None,
        }
    }

    /// The nodes behind an input, from one to the next by the first of `inputs` that is linked.
    fn chain(&self, node: &Node<'a>, input: &str, inputs: &[&str]) -> Vec<Node<'a>> {
        let next = |node: &Node<'a>| inputs.iter().find_map(|input| self.source(node, input));
        std::iter::successors(self.source(node, input), next).take(DEPTH).collect()
    }

    /// Whether a sampler goes on from another one's result.
    fn later(&self, node: &Node<'a>) -> bool {
        self.chain(node, "latent_image", &["samples", "latent_image", "latent"]).iter().any(Node::is_sampler)
    }

    /// A value, or that of the node that it is linked to.
    fn value(&self, value: &'a Value) -> Option<&'a Value> {
        let mut value = value;
        for _ in 0..DEPTH {
            let Some(node) = self.linked(value) else { break };
            const NAMES: [&str; 8] = ["text", "string", "value", "seed", "noise_seed", "int", "number", "prompt"];
            value = NAMES.iter().find_map(|name| node.inputs.get(*name))?;
        }
        (!value.is_array()).then_some(value)
    }

    fn sampler(&self, node: &Node<'a>, found: &mut Foreign) {
        let value = |name: &str| node.inputs.get(name).and_then(|value| self.value(value));
        let whole = |name: &str| value(name).and_then(Value::as_u64);
        found.request.steps = whole("steps").map(|steps| steps as usize);
        found.request.seed = whole("seed").or_else(|| whole("noise_seed")).into_iter().collect();
        found.request.guidance_scale = value("cfg").and_then(Value::as_f64).into_iter().collect();
        if let Some(sampler) = value("sampler_name").and_then(Value::as_str) {
            found.take_sampler(sampler, value("scheduler").and_then(Value::as_str));
        }
        // Parts of a run.
        let said = |name: &str, what: &str| value(name).and_then(Value::as_str) == Some(what);
        let end = whole("end_at_step").zip(whole("steps"));
        for (name, part) in [
            ("start_at_step", whole("start_at_step").is_some_and(|start| start > 0)),
            ("end_at_step", end.is_some_and(|(end, steps)| end < steps)),
            ("add_noise", said("add_noise", "disable")),
            ("return_with_leftover_noise", said("return_with_leftover_noise", "enable")),
        ] {
            if let Some(value) = value(name).filter(|_| part) {
                found.skip(name, &value.to_string(), "the whole run is made");
            }
        }
        self.latents(node, value("denoise").and_then(Value::as_f64).unwrap_or(1.0), found);
        self.model(node, found);
        let positive = self.prompt(node, "positive", found);
        let negative = self.prompt(node, "negative", found);
        let mut texts = [positive.0, positive.1, negative.0, negative.1];
        // Round brackets are weights, square ones are text.
        found.request.weighting = texts.iter().flatten().any(|text| text.contains(['(', ')']));
        if found.request.weighting {
            texts.iter_mut().flatten().for_each(|text| *text = as_weighted(text));
        }
        let [prompt, prompt_2, negative, negative_2] = texts;
        found.request.prompt = prompt.into_iter().collect();
        found.request.prompt_2 = prompt_2.into_iter().collect();
        found.request.negative_prompt = negative.filter(|text| !text.is_empty()).into_iter().collect();
        found.request.negative_prompt_2 = negative_2.into_iter().collect();
    }

    /// What the run begins with.
    fn latents(&self, node: &Node<'a>, denoise: f64, found: &mut Foreign) {
        for node in self.chain(node, "latent_image", &["samples", "latent", "pixels", "image"]) {
            let size = node.number("width").zip(node.number("height"));
            match (node.class, size) {
                (class, Some((width, height))) if class.starts_with("Empty") => {
                    (found.request.width, found.request.height) = (Some(width as usize), Some(height as usize));
                    let count = node.number("batch_size").map(|count| count as usize);
                    found.request.batch_size = count.filter(|count| *count > 1);
                    if denoise < 1.0 {
                        found.skip("denoise", &denoise.to_string(), "there is no picture of which a part would stay");
                    }
                }
                ("VAEEncode" | "VAEEncodeForInpaint", _) => found.strength = Some(denoise),
                ("LoadImage", _) => found.skip("image", node.text("image").unwrap_or_default(), ""),
                (class, _) => found.left_out.push(format!("node {} ({class})", node.id)),
            }
        }
    }

    /// The checkpoint, and what changes it.
    fn model(&self, node: &Node<'a>, found: &mut Foreign) {
        for node in self.chain(node, "model", &["model"]) {
            let scale = |name: &str| node.number(name).unwrap_or(1.0);
            if let Some(name) = node.text("ckpt_name") {
                found.model = Some(name.to_owned());
            } else if let Some(name) = node.text("lora_name") {
                let (name, unet) = (file_name(name), scale("strength_model"));
                let stem = name.strip_suffix(".safetensors").unwrap_or(name);
                let text = if node.inputs.contains_key("strength_clip") { scale("strength_clip") } else { 0.0 };
                found.loras.insert(0, format!("lora:{stem}:{text}:{unet}"));
            } else if let Some(name) = node.text("unet_name") {
                found.skip("unet", name, "give `unet`");
            } else if let (Some(sampling), "ModelSamplingDiscrete") = (node.text("sampling"), node.class) {
                match sampling {
                    "eps" => found.request.prediction_type = Some("epsilon".to_owned()),
                    "v_prediction" => found.request.prediction_type = Some(sampling.to_owned()),
                    other => found.skip("sampling", other, ""),
                }
            } else if let (Some(by), "RescaleCFG") = (node.number("multiplier"), node.class) {
                found.request.guidance_rescale = Some(by);
            } else {
                found.left_out.push(format!("node {} ({}), which changes the model", node.id, node.class));
            }
        }
    }

    /// The prompt of an input, and the one for SDXL's second text encoder.
    fn prompt(&self, node: &Node<'a>, input: &str, found: &mut Foreign) -> (Option<String>, Option<String>) {
        let follow = [input, "conditioning", "conditioning_1", "conditioning_to"];
        for node in self.chain(node, input, &follow) {
            let text = |name: &str| {
                node.inputs.get(name).and_then(|value| self.value(value)?.as_str()).map(|text| text.trim().to_owned())
            };
            let pair = |x: &str, y: &str| Some((node.number(x)? as usize, node.number(y)? as usize));
            if let Some(text) = text("text") {
                self.skipped_layers(&node, found);
                return (Some(text), None);
            }
            if let (Some(large), Some(small)) = (text("text_g"), text("text_l")) {
                self.skipped_layers(&node, found);
                found.request.original_size = pair("width", "height");
                found.request.crop = pair("crop_w", "crop_h");
                found.request.target_size = pair("target_width", "target_height");
                let second = (large != small).then_some(large);
                return (Some(small), second);
            }
            found.left_out.push(format!("node {} ({}), which changes the {input} prompt", node.id, node.class));
        }
        found.left_out.push(format!("the {input} prompt, to which no text leads"));
        (None, None)
    }

    fn skipped_layers(&self, node: &Node<'a>, found: &mut Foreign) {
        let chain = self.chain(node, "clip", &["clip"]);
        // Counted from the end: -1 is the last.
        let stop = chain.iter().find_map(|node| node.inputs.get("stop_at_clip_layer")?.as_i64());
        found.request.clip_skip = stop.map(|stop| (-stop).max(1) as usize - 1);
    }
}

/// A prompt in AUTOMATIC1111's syntax: what means something only there is text.
fn as_weighted(text: &str) -> String {
    let brackets = text.replace('[', "\\[").replace(']', "\\]");
    with_word(&with_word(&brackets, "BREAK", "break"), "AND", "and")
}
