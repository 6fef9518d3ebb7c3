//! The programs in `examples/`: each runs, and does what it says.

use unmist::backend::Device;
use unmist::image_io::read;
use unmist::verify::{Tolerance, compare};

use crate::device::gpu;

#[path = "../../../examples/graph_by_hand.rs"]
#[expect(dead_code, reason = "`main` belongs to the example")]
mod graph_by_hand;
#[path = "../../../examples/one_op.rs"]
#[expect(dead_code, reason = "`main` belongs to the example")]
mod one_op;
#[path = "../../../examples/picture.rs"]
#[expect(dead_code, reason = "`main` belongs to the example")]
mod picture;
#[path = "../../../examples/previews.rs"]
#[expect(dead_code, reason = "`main` belongs to the example")]
mod previews;
#[path = "../../../examples/scheduler_loop.rs"]
#[expect(dead_code, reason = "`main` belongs to the example")]
mod scheduler_loop;

/// Pixels between the pictures in a grid.
const GAP: usize = 2;

/// Runs `draw`, which writes a picture of this size, and checks that the picture is not blank.
fn draws(width: usize, height: usize, draw: impl FnOnce(&std::path::Path) -> unmist::Result<()>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("picture.png");
    draw(&path).unwrap_or_else(|e| panic!("{e}"));
    let picture = read(&path, 3).expect("a picture");
    assert_eq!((picture.width, picture.height), (width, height));
    let (least, most) = (picture.data.iter().min(), picture.data.iter().max());
    assert!(least.zip(most).is_some_and(|(least, most)| most - least > 100), "from {least:?} to {most:?}");
}

#[test]
fn a_picture_from_a_prompt() {
    draws(64, 64, |path| picture::draw("a 3d red apple, blue background", 2, path));
}

#[test]
fn an_own_scheduler_loop() {
    draws(3 * 32 + 2 * GAP, 32, |path| scheduler_loop::draw(4, path));
}

#[test]
fn previews_while_it_runs() {
    draws(2 * 64 + GAP, 64, |path| {
        assert_eq!(previews::draw(4, 2, path)?, 2);
        Ok(())
    });
}

#[test]
fn one_op_and_a_graph_by_hand_agree_with_the_reference() {
    let device = Device::Gpu(gpu().clone());
    for run in [one_op::softmax, graph_by_hand::run] {
        let [found, expected] = [&device, &Device::Reference].map(|device| run(device).expect("runs"));
        compare(&found, &expected, Tolerance::l2(1e-5)).unwrap_or_else(|e| panic!("{e}"));
    }
}
