//! The comparison itself must fail on every kind of fault it exists for.

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
    // In a large tensor one element of ordinary size is invisible to the relative L2 error alone: the elementwise bound
    // must see it.
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

#[test]
fn zeros_expected_and_found_differ_from_nothing() {
    let zeros = HostTensor::zeros([3, 3]);
    compare(&zeros, &zeros, Tolerance::l2(0.0)).expect("equal");
    assert!(compare(&sample(), &HostTensor::zeros([2, 9, 7, 5]), Tolerance::l2(1.0)).is_err());
}
