//! The comparison itself must fail on every kind of fault it is there to catch.

use unmist::HostTensor;
use unmist::ops::Fill;
use unmist::verify::{Tolerance, compare};

fn sample() -> HostTensor {
    Fill::Normal.tensor(&[2, 9, 7, 5], 7)
}

fn rejects(found: &HostTensor) {
    let result = compare(found, &sample(), Tolerance::l2(1e-5));
    assert!(result.is_err(), "accepted: {result:?}");
}

#[test]
fn accepts_equal_tensors_and_rounding() {
    compare(&sample(), &sample(), Tolerance::l2(0.0)).expect("identical tensors are equal");
    let mut rounded = sample();
    rounded.data.iter_mut().for_each(|v| *v *= 1.0 + f32::EPSILON);
    compare(&rounded, &sample(), Tolerance::l2(1e-5)).expect("one unit in the last place is rounding");
}

#[test]
fn rejects_one_wrong_element() {
    // In a large tensor, one element of ordinary size is invisible to the relative L2 error alone: the elementwise
    // bound must catch it.
    let expected = Fill::Normal.tensor(&[64, 64, 64], 3);
    for factor in [0.0, 0.9, -1.0] {
        let mut found = expected.clone();
        let index = found.data.iter().position(|v| v.abs() > 0.5).expect("a normal sample has such values");
        found.data[index] *= factor;
        let result = compare(&found, &expected, Tolerance { relative_l2: 1.0, ..Tolerance::l2(1e-4) });
        assert!(result.is_err(), "factor {factor} accepted: {result:?}");
    }
}

#[test]
fn rejects_a_shifted_row() {
    let mut found = sample();
    found.data.rotate_right(5);
    rejects(&found);
}

#[test]
fn rejects_zeros_and_constants() {
    rejects(&HostTensor::zeros([2, 9, 7, 5]));
    rejects(&HostTensor::from_fn([2, 9, 7, 5], |_| 1.0));
}

#[test]
fn rejects_nan_and_infinity_on_either_side() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut found = sample();
        found.data[11] = bad;
        rejects(&found);
        assert!(compare(&sample(), &found, Tolerance::l2(1.0)).is_err(), "{bad} in the expected tensor accepted");
    }
}

#[test]
fn rejects_swapped_images_and_another_shape() {
    let mut found = sample();
    let half = found.len() / 2;
    found.data.rotate_left(half);
    rejects(&found);
    let reshaped = HostTensor::new([9, 2, 7, 5], sample().data).expect("the same number of elements");
    rejects(&reshaped);
}

/// Every kind of bound, each as tight as it is used.
fn tolerances() -> [(&'static str, Tolerance); 5] {
    [
        ("an operation in f32", Tolerance::l2(1e-5)),
        ("an operation in f16", Tolerance::f16(1e-5)),
        ("a model", Tolerance::l2(1e-4)),
        ("a scheduler", Tolerance::near(1e-5)),
        ("a picture", Tolerance::largest(2e-3)),
    ]
}

#[test]
fn every_kind_of_bound_rejects_every_kind_of_fault() {
    let expected = Fill::Normal.tensor(&[2, 9, 7, 320], 5);
    let at = expected.data.iter().position(|v| (0.5..1.0).contains(&v.abs())).expect("a normal sample has such values");
    let single = |value: f32| {
        let mut found = expected.clone();
        found.data[at] = value;
        found
    };
    let channel = |factor: f32| {
        let mut found = expected.clone();
        found.data.iter_mut().skip(317).step_by(320).for_each(|v| *v *= factor);
        found
    };
    let whole = |f: &dyn Fn(usize) -> f32| HostTensor::from_fn([2, 9, 7, 320], f);
    let faults = [
        ("one element zero", single(0.0)),
        ("one element of the other sign", single(-expected.data[at])),
        ("one element 1 % off", single(1.01 * expected.data[at])),
        ("one element not a number", single(f32::NAN)),
        ("one element infinite", single(f32::INFINITY)),
        ("one channel of 320 zero", channel(0.0)),
        ("one channel of 320 1 % off", channel(1.01)),
        ("all 1 % off", whole(&|i| 1.01 * expected.data[i])),
        ("a bias of 0.01 dropped", whole(&|i| expected.data[i] - 0.01)),
        ("moved by one", whole(&|i| expected.data[(i + 1) % expected.len()])),
        ("images swapped", whole(&|i| expected.data[(i + expected.len() / 2) % expected.len()])),
        ("zeros", whole(&|_| 0.0)),
    ];
    for (kind, tolerance) in tolerances() {
        compare(&expected, &expected, tolerance).unwrap_or_else(|e| panic!("{kind}: identical tensors: {e}"));
        for (fault, found) in &faults {
            assert!(compare(found, &expected, tolerance).is_err(), "{kind}: {fault} was accepted");
        }
    }
}

#[test]
fn f16_may_round_to_a_neighbour_and_no_further() {
    // 1.0 and its neighbours above, 2^-10 apart.
    let expected = HostTensor::from_fn([64], |_| 1.0);
    let found = |ulps: f32| {
        let mut found = expected.clone();
        found.data[17] = 1.0 + ulps / 1024.0;
        found
    };
    compare(&found(1.0), &expected, Tolerance::f16(1e-5)).expect("a neighbour");
    assert!(compare(&found(2.0), &expected, Tolerance::f16(1e-5)).is_err(), "two steps away");
}

#[test]
fn zeros_expected_and_found_differ_from_nothing() {
    let zeros = HostTensor::zeros([3, 3]);
    compare(&zeros, &zeros, Tolerance::l2(0.0)).expect("equal");
    assert!(compare(&sample(), &HostTensor::zeros([2, 9, 7, 5]), Tolerance::l2(1.0)).is_err());
}
