//! The references for what transformers beyond U-Nets need, against torch, diffusers and transformers
//! (`tests/fixtures/transformer_ops.safetensors`). The kernels are compared with the references in `parity`.

use serde_json::{Map, Value};
use unmist::HostTensor;
use unmist::ops::rope::{RopeAxis, tables};
use unmist::reference::{self, AttentionOptions};

use crate::common::{Fixture, check_close};

fn number(attributes: &Map<String, Value>, key: &str) -> f64 {
    attributes[key].as_f64().unwrap_or_else(|| panic!("{key} is a number"))
}

fn whole(attributes: &Map<String, Value>, key: &str) -> usize {
    number(attributes, key) as usize
}

fn numbers(attributes: &Map<String, Value>, key: &str) -> Vec<usize> {
    let list = attributes[key].as_array().unwrap_or_else(|| panic!("{key} is a list"));
    list.iter().map(|v| v.as_u64().expect("a whole number") as usize).collect()
}

/// `[N, heads, T, D]` → `[N, T, heads · D]`
fn heads_last(x: &HostTensor) -> HostTensor {
    let x = x.permute(&[0, 2, 1, 3]).expect("four dimensions");
    HostTensor { shape: vec![x.shape[0], x.shape[1], x.shape[2] * x.shape[3]], data: x.data }
}

/// Cosines and sines for the positions `[axes, T]` of a case.
fn rope_tables(positions: &HostTensor, attributes: &Map<String, Value>) -> [HostTensor; 2] {
    let tokens = positions.shape[1];
    let axes: Vec<_> = numbers(attributes, "dims")
        .into_iter()
        .zip(positions.data.chunks(tokens))
        .map(|(dim, positions)| RopeAxis { positions: positions.iter().map(|p| f64::from(*p)).collect(), dim })
        .collect();
    tables(&axes, number(attributes, "theta")).expect("the axes fit each other")
}

fn attention(fixture: &Fixture, name: &str, attributes: &Map<String, Value>) -> HostTensor {
    let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
    let optional = |what: &str| fixture.find(&format!("{name}/{what}"));
    let (query, key) = (tensor("query"), tensor("key"));
    let options = AttentionOptions {
        kv_heads: key.shape[1],
        causal: attributes["causal"].as_bool().expect("causal is true or false"),
        scale: 1.0 / (query.shape[3] as f64).sqrt(),
        bias: optional("bias"),
        mask: optional("mask"),
    };
    reference::attention(&heads_last(query), &heads_last(key), &heads_last(tensor("value")), query.shape[1], &options)
}

#[test]
fn transformer_ops_agree_with_torch() {
    let fixture = Fixture::read("transformer_ops");
    let function = |name: &str| reference::activation_function(name).expect("the reference knows it");
    for (name, attributes) in &fixture.object("cases") {
        let attributes = attributes.as_object().expect("cases are objects");
        let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
        let mut expected = tensor("out").clone();
        // `rope` needs more: at position 1000, f32 resolves an angle only to 6e-5.
        let mut tolerance = 2e-6;
        let found = match attributes["op"].as_str().expect("op is a name") {
            "rope" => {
                let x = tensor("input");
                let [cosines, sines] = rope_tables(tensor("positions"), attributes);
                let interleaved = attributes["interleaved"].as_bool().expect("true or false");
                expected = heads_last(&expected);
                tolerance = 1e-5;
                reference::rope(&heads_last(x), &cosines, &sines, x.shape[3], interleaved)
            }
            "rms_norm" => reference::rms_norm(tensor("input"), Some(tensor("weight")), None, number(attributes, "eps")),
            "ada_layer_norm_zero" => {
                let normal = reference::layer_norm(tensor("input"), None, None, number(attributes, "eps"));
                let shift = Some(whole(attributes, "shift"));
                reference::modulate(&normal, tensor("modulation"), whole(attributes, "scale"), shift)
            }
            "gated" => {
                let activation = attributes["activation"].as_str().expect("a name");
                reference::gated(tensor("input"), function(activation))
            }
            "gelu_pytorch_tanh" => reference::activation(tensor("input"), function("gelu_pytorch_tanh")),
            "attention" => {
                expected = heads_last(&expected);
                attention(&fixture, name, attributes)
            }
            "permute" => reference::transpose(tensor("input"), &numbers(attributes, "order")),
            "add" => reference::binary(tensor("input"), tensor("other"), |a, b| a + b),
            "mul" => reference::binary(tensor("input"), tensor("other"), |a, b| a * b),
            other => panic!("{name}: nothing compares {other}"),
        };
        assert_eq!(found.shape, expected.shape, "{name}");
        check_close(name, &found.data, &expected.data, tolerance);
    }
}
