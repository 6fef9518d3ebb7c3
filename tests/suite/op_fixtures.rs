//! The reference of each operation against what torch and diffusers compute (`tests/fixtures/ops.safetensors`). The kernels are compared with
//! the reference in `op_parity`.

use serde_json::{Map, Value};
use unmist::HostTensor;
use unmist::ops::conv2d::Conv2d;
use unmist::reference;

use crate::common::{Fixture, check_close};

/// Calls `check` with the name and the attributes of every case of an operation; fails if there is none.
fn for_each_case(fixture: &Fixture, op: &str, check: impl Fn(&str, &Map<String, Value>)) {
    let cases = fixture.object("cases");
    let cases: Vec<_> = cases.iter().filter(|(_, attributes)| attributes["op"] == op).collect();
    assert!(!cases.is_empty(), "no case of {op} in the fixture");
    cases.iter().for_each(|(name, attributes)| check(name, attributes.as_object().expect("cases are objects")));
}

/// A tensor of a case in channels-last layout: pictures `[N, C, H, W]` → `[N, H, W, C]`, filters `[O, I, KH, KW]` → `[O, KH, KW, I]`.
fn channels_last(fixture: &Fixture, key: String) -> HostTensor {
    fixture.tensor(&key).nchw_to_nhwc().expect("the fixture holds four dimensions")
}

#[test]
fn conv2d_agrees_with_torch() {
    let fixture = Fixture::read("ops");
    for_each_case(&fixture, "conv2d", |name, attributes| {
        let number = |v: &Value| v.as_u64().expect("a whole number") as usize;
        // The fixture lists them as torch.nn.functional.pad takes them.
        let [left, right, top, bottom] = [0, 1, 2, 3].map(|i| number(&attributes["padding"][i]));
        let op = Conv2d { stride: [number(&attributes["stride"]); 2], padding: [top, bottom, left, right] };
        let [x, weight, expected] =
            ["input", "weight", "out"].map(|tensor| channels_last(&fixture, format!("{name}/{tensor}")));
        let bias = fixture.tensor(&format!("{name}/bias"));
        let found = reference::conv2d(&x, &weight, Some(bias), None, None, &op);
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
        let found = reference::linear(tensor("input"), tensor("weight"), bias, None, None);
        assert_eq!(found.shape, tensor("out").shape, "{name}");
        check_close(name, &found.data, &tensor("out").data, 1e-6);
    });
}
