//! The reference of each operation against what torch and diffusers compute (`tests/fixtures/ops.safetensors`). The
//! kernels are compared with the reference in `parity`.

use serde_json::{Map, Value};
use unmist::HostTensor;
use unmist::ops::Op;
use unmist::ops::activation::ActivationKind;
use unmist::ops::contraction::{Contraction, Conv2d, Gather};
use unmist::ops::fourier_embedding::FourierEmbedding;
use unmist::ops::timestep_embedding::TimestepEmbedding;
use unmist::reference::{self, AttentionOptions};

use crate::common::{Fixture, check_close};

/// Calls `check` with the name and the attributes of every case of an operation; fails if there is none.
fn for_each_case(fixture: &Fixture, op: &str, check: impl Fn(&str, &Map<String, Value>)) {
    let cases = fixture.object("cases");
    let cases: Vec<_> = cases.iter().filter(|(_, attributes)| attributes["op"] == op).collect();
    assert!(!cases.is_empty(), "no case of {op} in the fixture");
    cases.iter().for_each(|(name, attributes)| check(name, attributes.as_object().expect("cases are objects")));
}

/// A tensor of a case in channels-last layout: pictures `[N, C, H, W]` → `[N, H, W, C]`, filters `[O, I, KH, KW]` →
/// `[O, KH, KW, I]`.
fn channels_last(fixture: &Fixture, key: String) -> HostTensor {
    fixture.tensor(&key).channels_last()
}

#[test]
fn conv2d_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "conv2d", |name, attributes| {
        let number = |v: &Value| v.as_u64().expect("a whole number") as usize;
        // In the order in which torch.nn.functional.pad takes them.
        let [left, right, top, bottom] = [0, 1, 2, 3].map(|i| number(&attributes["padding"][i]));
        let conv = Conv2d {
            stride: [number(&attributes["stride"]); 2],
            padding: [top, bottom, left, right],
            ..Conv2d::default()
        };
        let op = Op::from(Contraction::new(Gather::Windows(conv.into())));
        let [x, weight, expected] =
            ["input", "weight", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
        let bias = fixture.tensor(&format!("{name}/bias"));
        let found = op.reference(&[Some(&x), Some(&weight), Some(bias), None, None]);
        assert_eq!(found.shape, expected.shape, "{name}");
        check_close(name, &found.data, &expected.data, 1e-6);
    });
}

#[test]
fn linear_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "linear", |name, _| {
        let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
        let bias = (name == "linear").then(|| tensor("bias"));
        let op = Op::from(Contraction::new(Gather::Rows));
        let found = op.reference(&[Some(tensor("input")), Some(tensor("weight")), bias, None, None]);
        assert_eq!(found.shape, tensor("out").shape, "{name}");
        check_close(name, &found.data, &tensor("out").data, 1e-6);
    });
}

fn number(attributes: &Map<String, Value>, key: &str) -> f64 {
    attributes[key].as_f64().unwrap_or_else(|| panic!("{key} is a number"))
}

fn function(name: &str) -> fn(f64) -> f64 {
    reference::activation_function(name).expect("the reference knows it")
}

fn check(name: &str, found: &HostTensor, expected: &HostTensor, tolerance: f64) {
    assert_eq!(found.shape, expected.shape, "{name}");
    check_close(name, &found.data, &expected.data, tolerance);
}

/// Fails when the fixture gains an operation that no test here looks at.
#[test]
fn every_operation_of_the_fixture_is_compared() {
    let compared =
        ["conv2d", "linear", "embedding", "group_norm", "group_norm_silu", "layer_norm", "attention", "softmax"]
            .into_iter()
            .chain(["geglu", "timestep_embedding", "gaussian_fourier", "avg_pool2d", "upsample_nearest"])
            .chain(["fir_resample"])
            .chain(ActivationKind::ALL.map(ActivationKind::name));
    // In the fixture, but no operation here needs them.
    let known: Vec<_> = compared.chain(["sigmoid", "tanh"]).collect();
    for (name, attributes) in &Fixture::read("ops").object("cases") {
        let op = attributes["op"].as_str().expect("op is a name");
        assert!(known.contains(&op), "{name}: nothing compares {op}");
    }
}

#[test]
fn activation_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    // The remaining kind is compared in `transformer_ops_agree_with_torch`.
    for kind in ActivationKind::ALL.into_iter().filter(|kind| *kind != ActivationKind::GeluTanh) {
        for_each_case(&fixture, kind.name(), |name, _| {
            let f = reference::activation_function(kind.name()).expect("every kind has a function");
            let found = reference::activation(fixture.tensor(&format!("{name}/input")), f);
            check(name, &found, fixture.tensor(&format!("{name}/out")), 1e-6);
        });
    }
}

#[test]
fn geglu_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "geglu", |name, _| {
        let found = reference::gated(fixture.tensor(&format!("{name}/input")), function("gelu"));
        check(name, &found, fixture.tensor(&format!("{name}/out")), 1e-6);
    });
}

#[test]
fn embedding_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "embedding", |name, _| {
        let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
        check(name, &reference::embedding(tensor("input"), tensor("weight")), tensor("out"), 0.0);
    });
}

#[test]
fn group_norm_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for (op, activation) in [("group_norm", None), ("group_norm_silu", Some(function("silu")))] {
        for_each_case(&fixture, op, |name, attributes| {
            let [x, expected] = ["input", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
            let [gamma, beta] = ["weight", "bias"].map(|tensor| fixture.tensor(&format!("{name}/{tensor}")));
            let (groups, eps) = (number(attributes, "num_groups") as usize, number(attributes, "eps"));
            // With a mean of 100 standard deviations or more, torch's own rounding of the mean shows: 6e-8 of the mean,
            // times 500.
            let tolerance =
                if ["group_norm_far_mean", "group_norm_tiny_variance"].contains(&name) { 5e-5 } else { 2e-6 };
            let mut found = reference::group_norm(&x, Some(gamma), Some(beta), groups, eps);
            if let Some(f) = activation {
                found = reference::activation(&found, f);
            }
            check(name, &found, &expected, tolerance);
        });
    }
}

#[test]
fn layer_norm_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "layer_norm", |name, attributes| {
        let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
        let found = reference::layer_norm(
            tensor("input"),
            Some(tensor("weight")),
            Some(tensor("bias")),
            number(attributes, "eps"),
        );
        // A mean of 50 standard deviations leaves torch itself only five digits.
        let tolerance = if name == "layer_norm_odd" { 1e-5 } else { 2e-6 };
        check(name, &found, tensor("out"), tolerance);
    });
}

#[test]
fn softmax_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "softmax", |name, _| {
        let found = reference::softmax(fixture.tensor(&format!("{name}/input")));
        check(name, &found, fixture.tensor(&format!("{name}/out")), 1e-6);
    });
}

#[test]
fn attention_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "attention", |name, attributes| {
        // [N, heads, T, D] → [N, T, heads·D]
        let [q, k, v, expected] = ["query", "key", "value", "out"].map(|tensor| {
            let t = fixture.tensor(&format!("{name}/{tensor}")).permute(&[0, 2, 1, 3]).expect("four dimensions");
            HostTensor { shape: vec![t.shape[0], t.shape[1], t.shape[2] * t.shape[3]], data: t.data }
        });
        let query = &fixture.tensor(&format!("{name}/query")).shape;
        let (heads, scale) = (query[1], 1.0 / (query[3] as f64).sqrt());
        let causal = attributes["causal"].as_bool().expect("causal is true or false");
        // Scores of several hundred are rounded by 3e-5 in torch, and so are their exponentials.
        let tolerance = if name == "attention_large_scores" { 1e-4 } else { 1e-6 };
        let options = AttentionOptions { kv_heads: heads, causal, scale, bias: None, mask: None };
        check(name, &reference::attention(&q, &k, &v, heads, &options), &expected, tolerance);
    });
}

#[test]
fn timestep_embedding_agrees_with_diffusers() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "timestep_embedding", |name, attributes| {
        let op = TimestepEmbedding {
            dim: number(attributes, "embedding_dim") as usize,
            flip_sin_to_cos: attributes["flip_sin_to_cos"].as_bool().expect("true or false"),
            freq_shift: number(attributes, "freq_shift"),
            ..TimestepEmbedding::default()
        };
        let frequencies = op.frequencies().expect("the fixture's attributes make sense");
        let found = reference::timestep_embedding(
            fixture.tensor(&format!("{name}/input")),
            &frequencies,
            op.dim,
            op.flip_sin_to_cos,
            op.scale,
        );
        let expected = fixture.tensor(&format!("{name}/out"));
        // In torch, one frequency in 80 is not the nearest f32, because its exp() is sometimes off by one unit in the
        // last place; at timestep 999 that changes an angle by up to 6e-5 rad. All others must agree to within the
        // rounding of the sine.
        check(name, &found, expected, 6e-5);
        let apart = found.data.iter().zip(&expected.data).filter(|(f, e)| (*f - *e).abs() > 1e-6).count();
        assert!(100 * apart <= 2 * found.len(), "{name}: {apart} of {} elements differ", found.len());
    });
}

#[test]
fn fourier_embedding_agrees_with_diffusers() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "gaussian_fourier", |name, attributes| {
        let tensor = |what: &str| fixture.tensor(&format!("{name}/{what}"));
        let flag = |key: &str| attributes[key].as_bool().expect("true or false");
        let op = FourierEmbedding { log: flag("log"), flip_sin_to_cos: flag("flip_sin_to_cos") };
        // Angles reach 1000 rad and more, and torch rounds them to f32 several times: by 6e-5 rad each time at 1000.
        check(
            name,
            &reference::fourier_embedding(tensor("input"), tensor("weight"), op.log, op.flip_sin_to_cos),
            tensor("out"),
            2e-4,
        );
    });
}

#[test]
fn avg_pool_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "avg_pool2d", |name, _| {
        let [x, expected] = ["input", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
        check(name, &reference::avg_pool(&x), &expected, 1e-6);
    });
}

#[test]
fn fir_resample_agrees_with_diffusers() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "fir_resample", |name, attributes| {
        let [x, expected] = ["input", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
        let up = attributes["up"].as_bool().expect("true or false");
        check(name, &reference::fir_resample(&x, up), &expected, 1e-6);
    });
}

#[test]
fn upsample_nearest_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "upsample_nearest", |name, _| {
        let [x, expected] = ["input", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
        let found = reference::upsample_nearest(&x, expected.shape[1], expected.shape[2]);
        check(name, &found, &expected, 0.0);
    });
}
