//! Damaged inputs of every kind that is read from outside (`kinds/`): each is read or refused with a message, without a
//! panic, within 10 seconds, and in no more memory than 4 times the input and 256 MiB.
//!
//! Inputs are numbered and follow from the seed, so that one that fails can be made again. `tools/fuzz` runs more of
//! them than `cargo test` does; the environment says how many (`UNMIST_FUZZ_INPUTS`), from which seed
//! (`UNMIST_FUZZ_SEED`), of which kinds (`UNMIST_FUZZ_KIND`, the beginning of a name), or which one alone
//! (`UNMIST_FUZZ_ONLY`, its number).

mod harness;
mod json;
mod kinds;
mod large;
mod random;
mod run;

#[path = "../suite/checkpoints/gguf_writer.rs"]
mod gguf_writer;

use std::sync::Mutex;

#[global_allocator]
static ALLOCATOR: harness::Counting = harness::Counting;

/// Memory is counted for the whole process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn damaged_inputs_do_no_harm() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let report = run::run(&run::Options::from_environment());
    eprint!("{report}");
    assert!(report.failures.is_empty(), "{} inputs did harm", report.failures.len());
    assert!(report.one_sided.is_empty(), "{:?}: the mutations test only one outcome", report.one_sided);
}

#[test]
fn large_inputs_do_no_harm() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    large::check();
}

/// The harness must notice what it is there for.
#[test]
fn harm_is_noticed() {
    use std::time::Duration;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let kept = harness::KeptPanics::new();
    let limits = harness::Limits { time: Duration::from_millis(50), memory: 1 << 20 };
    let message = |read: &dyn Fn() -> unmist::Result<()>| harness::watched(1000, limits, read).expect_err("harm");
    let held = |bytes: usize| {
        drop(std::hint::black_box(vec![1u8; bytes]));
        Ok(())
    };
    assert!(message(&|| panic!("of a reader")).contains("of a reader"));
    let compute = || {
        let clock = harness::Clock::new();
        let start = clock.now();
        while clock.now() < start + Duration::from_millis(80) {}
        Ok(())
    };
    assert!(message(&|| compute()).contains("took"));
    assert!(message(&|| held(2 << 20)).contains("bytes of memory"));
    assert!(message(&|| Err(unmist::Error::Usage("bad".into()))).contains("a message of"));
    // Up to the limits, all is well.
    let outcomes = [1 << 20, (1 << 20) + 3900].map(|bytes| harness::watched(1000, limits, || held(bytes)));
    drop(kept);
    for outcome in outcomes {
        let outcome = outcome.expect("no harm");
        assert!(outcome.accepted && outcome.memory >= 1 << 20);
    }
}
