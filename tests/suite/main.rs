//! Tests against numbers that other programs computed; `tests/fixtures` holds those numbers, `tools/make_fixtures.py` makes them.

mod common;
mod rng;
mod schedulers;
