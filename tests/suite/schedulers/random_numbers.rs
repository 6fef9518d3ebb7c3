//! The random generators against torch's, bit for bit.

use unmist::HostTensor;
use unmist::rng::{BrownianTree, Draw, Increment, NoiseSource, StepNoise, TorchCpu, TorchCuda, randn_tensor, slerp};

use crate::common::{Fixture, check_close, one};

/// 64-bit FNV-1a of the values' little-endian bytes.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Two million values: every branch of the polynomial log and sincos, thousands of times each. The hash is of
/// `torch.randn(2_000_000, generator=torch.Generator().manual_seed(1234567))`, torch 2.15.0, x86-64.
#[test]
fn two_million_values() {
    assert_eq!(hash(&TorchCpu::new(1_234_567).randn(&[2_000_000]).data), 0x3a1c_0fcc_af37_41ba);
}

/// The first draw of every size, from seeds that do and do not fit 32 bits.
#[test]
fn first_draws() {
    let fixture = Fixture::read("rng");
    for (seed_name, seed) in fixture.object("seeds") {
        let seed = seed.as_str().expect("seeds are strings").parse().expect("seeds are u64");
        for size in [1, 2, 15, 16, 17, 31, 32, 33, 1000, 1024] {
            let expected = &fixture.tensor(&format!("randn/{seed_name}/{size}")).data;
            assert_eq!(&TorchCpu::new(seed).randn(&[size]).data, expected, "randn of {size}, seed {seed}");
        }
        let expected = &fixture.tensor(&format!("rand/{seed_name}/33")).data;
        assert_eq!(&TorchCpu::new(seed).rand(&[33]).data, expected, "rand, seed {seed}");
        let large = TorchCpu::new(seed).randn(&[100_003]).data;
        let sparse: Vec<f32> = large.iter().step_by(997).copied().collect();
        assert_eq!(sparse, fixture.tensor(&format!("randn_large/{seed_name}")).data, "seed {seed}");
        assert_eq!(large[100_003 - 20..], fixture.tensor(&format!("randn_large_tail/{seed_name}")).data, "seed {seed}");
    }
}

/// Draws of many sizes from one generator: scalar and block paths, the cached second normal, every kind of tail.
#[test]
fn draws_in_sequence() {
    let fixture = Fixture::read("rng");
    for (seed_name, seed) in fixture.object("seeds") {
        let mut generator = TorchCpu::new(seed.as_str().expect("seeds are strings").parse().expect("seeds are u64"));
        for (i, size) in [3, 16, 1, 5, 40, 15, 2, 17, 8, 1, 1, 100].into_iter().enumerate() {
            let expected = &fixture.tensor(&format!("sequence/{seed_name}/{i:02}_{size}")).data;
            assert_eq!(&generator.randn(&[size]).data, expected, "draw {i} of {size}, seed {seed}");
        }
    }
}

/// Draws in float16 are not quite float32 draws rounded.
#[test]
fn draws_in_f16() {
    let fixture = Fixture::read("rng");
    for size in [5, 16, 100] {
        let expected = &fixture.tensor(&format!("randn_f16/42/{size}")).data;
        assert_eq!(&TorchCpu::new_f16(42).randn(&[size]).data, expected, "size {size}");
    }
}

/// One source per batch element: each element is what its seed gives on its own.
#[test]
fn one_source_for_each_batch_element() {
    let both = randn_tensor(&mut [TorchCpu::new(1), TorchCpu::new(2)], &[2, 3, 5, 7]);
    let (first, second) = both.data.split_at(3 * 5 * 7);
    assert_eq!(first, TorchCpu::new(1).randn(&[1, 3, 5, 7]).data);
    assert_eq!(second, TorchCpu::new(2).randn(&[1, 3, 5, 7]).data);
    assert_ne!(both.data, randn_tensor(&mut [TorchCpu::new(1)], &[2, 3, 5, 7]).data);
}

/// Between two noises: numpy's numbers, the ends to the bit, the length that noise has, and what has no way between.
#[test]
fn between_noises() {
    let fixture = Fixture::read("rng");
    let mut found = 0;
    for (key, expected) in fixture.under("slerp/") {
        let [from, to, t] = key.split('/').collect::<Vec<_>>()[..] else { panic!("{key}: two seeds and a share") };
        let [from, to] = [from, to].map(|seed| fixture.tensor(&format!("randn/{seed}/33")));
        let between = slerp(from, to, t.parse().expect("a number")).expect("of one shape");
        check_close(key, &between.data, &expected.data, 1e-7);
        found += 1;
    }
    assert_eq!(found, 4);

    let [a, b] = [1, 2].map(|seed| TorchCpu::new(seed).randn(&[1, 4, 64, 64]));
    let length = |x: &HostTensor| x.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    assert_eq!(slerp(&a, &b, 0.0).expect("the first"), a);
    assert_eq!(slerp(&a, &b, 1.0).expect("the last"), b);
    let middle = slerp(&a, &b, 0.5).expect("between");
    // The mean's would be 0.7 of it.
    assert!((length(&middle) / length(&a) - 1.0).abs() < 0.02, "{} of {}", length(&middle), length(&a));
    assert_eq!(slerp(&a, &a, 0.3).expect("parallel").data, a.data);
    let zeros = HostTensor::zeros([3]);
    assert_eq!(slerp(&zeros, &zeros, 0.3).expect("nothing is between"), zeros);
    let minus = HostTensor { data: a.data.iter().map(|v| -v).collect(), ..a.clone() };
    let message = slerp(&a, &minus, 0.5).expect_err("opposite").to_string();
    assert!(message.contains("opposite"), "{message}");
    let message = slerp(&a, &zeros, 0.5).expect_err("shapes").to_string();
    assert!(message.contains("[1, 4, 64, 64]") && message.contains("[3]"), "{message}");
}

/// Brownian paths, asked for in the order in which torchsde was asked and in the opposite one, which must not matter.
#[test]
fn brownian_paths() {
    let fixture = Fixture::read("brownian");
    for (key, case) in fixture.object("cases") {
        let seed = case["seed"].as_str().expect("seeds are strings").parse().expect("seeds are u64");
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).expect("a shape");
        let [low, high]: [f64; 2] = serde_json::from_value(case["range"].clone()).expect("two levels");
        let times: Vec<f64> = fixture.tensor(&format!("{key}/times")).data.iter().map(|t| f64::from(*t)).collect();
        let expected = fixture.tensor(&format!("{key}/increments"));
        let there: Vec<usize> = (0..expected.shape[0]).collect();
        let back = there.iter().rev().copied().collect();
        for order in [there, back] {
            let mut tree = BrownianTree::new(&TorchCpu::new(0), seed, low, high, &shape);
            for i in order {
                let found = tree.increment(times[2 * i], times[2 * i + 1]);
                assert_eq!(found.shape, shape, "{key}");
                assert_eq!(found.data, one(expected, i).data, "{key}: {:?}", &times[2 * i..2 * i + 2]);
            }
        }
    }
}

/// Beyond its ends, and in no time, a path does not move; parts add up; times closer than its resolution are one.
#[test]
fn edges_of_brownian_paths() {
    let mut tree = BrownianTree::new(&TorchCpu::new(0), 7, 1.0, 3.0, &[16]);
    let whole = tree.increment(1.0, 3.0);
    assert_eq!(tree.increment(0.0, 9.0), whole);
    let nothing = HostTensor::zeros([16]);
    for (from, to) in [(3.0, 4.0), (0.5, 1.0), (2.0, 2.0), (2.0, 2.000_000_1), (2.5, 1.5)] {
        assert_eq!(tree.increment(from, to), nothing, "{from} to {to}");
    }
    let (left, right) = (tree.increment(1.0, 1.3), tree.increment(1.3, 3.0));
    let sum: Vec<f32> = left.data.iter().zip(&right.data).map(|(l, r)| l + r).collect();
    check_close("parts", &sum, &whole.data, 1e-6);
    // Of noise from another kind of source the path is another one, and 64 bits of the seed count.
    assert_ne!(BrownianTree::new(&TorchCuda::new(0), 7, 1.0, 3.0, &[16]).increment(1.0, 3.0), whole);
    assert_ne!(BrownianTree::new(&TorchCpu::new(0), 7 + (1 << 32), 1.0, 3.0, &[16]).increment(1.0, 3.0), whole);
}

/// Each picture of a batch has the path that it has alone; a seed in the config is for all; drawing the path does not
/// advance the source. Over many elements the noise is standard normal.
#[test]
fn brownian_noise_of_a_batch() {
    let increment = |seed| Draw::Brownian(Increment { range: [0.5, 14.0], from: 9.0, to: 4.0, seed });
    let draw = |seeds: &[u64], seed, shape: &[usize]| {
        let mut sources: Vec<_> = seeds.iter().map(|seed| TorchCpu::new(*seed)).collect();
        let noise = StepNoise::new(&mut sources).draw(increment(seed), shape).expect("it draws");
        assert_eq!(sources[0].randn(&[3]), TorchCpu::new(seeds[0]).randn(&[3]), "the source has not moved");
        noise
    };
    let both = draw(&[1, 2], None, &[2, 3, 5, 7]);
    for (i, seed) in [1, 2].into_iter().enumerate() {
        assert_eq!(one(&both, i), draw(&[seed], None, &[1, 3, 5, 7]), "picture {i}");
        assert_eq!(one(&draw(&[1, 2], Some(2), &[2, 3, 5, 7]), i), one(&both, 1), "one seed for all");
    }
    assert_eq!(draw(&[1], Some(2), &[1, 3, 5, 7]), one(&both, 1));
    // One source is for the whole batch, as in diffusers.
    assert_ne!(draw(&[1], None, &[2, 3, 5, 7]).data[..105], both.data[..105]);

    let large = draw(&[3], None, &[1, 100_000]).data;
    let moment = |p: i32| large.iter().map(|x| f64::from(*x).powi(p)).sum::<f64>() / large.len() as f64;
    assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02, "mean {}, variance {}", moment(1), moment(2));
}

/// What `torch.randn` gives on CUDA from seed 0 (published with the web UI that first reproduced it), and how one draw
/// affects the next.
#[test]
fn cuda() {
    let expected = [
        -0.924_662_6,
        -0.425_344_15,
        -2.643_845_7,
        0.145_183_88,
        -0.120_866_47,
        -0.579_725_6,
        -0.622_851_2,
        -0.328_387_1,
        -1.074_542_3,
        -0.363_144_07,
        -1.671_050_7,
        2.265_505,
    ];
    let mut generator = TorchCuda::new(0);
    let first = generator.randn(&[3, 4]);
    check_close("torch.randn on CUDA", &first.data, &expected, 1e-6);
    // The elements of a draw do not depend on its size; the next draw is another one.
    assert_eq!(TorchCuda::new(0).randn(&[7]).data, first.data[..7]);
    assert_ne!(generator.randn(&[3, 4]), first);
    assert_ne!(TorchCuda::new(1 << 32).randn(&[3, 4]), first, "all 64 bits of the seed count");
}
