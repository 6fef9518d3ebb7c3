//! numpy's `SeedSequence`: well-mixed seeds from a number, and others from the same number and a place in a tree.
//!
//! The mixing is that of O'Neill 2015, "Developing a seed_seq Alternative" (pcg-random.org): a pool of 32-bit words,
//! into which every word of entropy is hashed, each with a multiplier that no other hash has.

/// Words in the pool of torchsde's Brownian paths. numpy's own default is 4.
const POOL: usize = 24;

/// Where a run of hashes begins, and what its multiplier grows by: while words enter the pool, and while they leave it.
const ENTER: [u32; 2] = [0x43b0_d7e5, 0x931e_8875];
const LEAVE: [u32; 2] = [0x8b51_f9dd, 0x58f3_8ded];

/// `numpy.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=24).generate_state(N)`.
pub(super) fn seeds<const N: usize>(entropy: u64, spawn_key: &[u128]) -> [u32; N] {
    let mut entered = words(entropy.into());
    if !spawn_key.is_empty() {
        // So that no entropy looks like another one with a key behind it.
        entered.resize(POOL, 0);
        entered.extend(spawn_key.iter().flat_map(|part| words(*part)));
    }
    let mut hash = Hash::new(ENTER);
    let mut pool: [u32; POOL] = std::array::from_fn(|i| hash.of(entered.get(i).copied().unwrap_or(0)));
    for source in 0..POOL {
        for target in (0..POOL).filter(|target| *target != source) {
            pool[target] = mixed(pool[target], hash.of(pool[source]));
        }
    }
    for word in entered.into_iter().skip(POOL) {
        for target in &mut pool {
            *target = mixed(*target, hash.of(word));
        }
    }
    let mut hash = Hash::new(LEAVE);
    std::array::from_fn(|i| hash.of(pool[i % POOL]))
}

/// A number as 32-bit words, the lowest first, at least one.
fn words(mut number: u128) -> Vec<u32> {
    let mut words = vec![number as u32];
    number >>= 32;
    while number > 0 {
        words.push(number as u32);
        number >>= 32;
    }
    words
}

/// A hash function that is another one each time.
struct Hash {
    multiplier: u32,
    growth: u32,
}

impl Hash {
    fn new([multiplier, growth]: [u32; 2]) -> Self {
        Self { multiplier, growth }
    }

    fn of(&mut self, word: u32) -> u32 {
        let word = word ^ self.multiplier;
        self.multiplier = self.multiplier.wrapping_mul(self.growth);
        let word = word.wrapping_mul(self.multiplier);
        word ^ (word >> 16)
    }
}

/// One word of two.
fn mixed(a: u32, b: u32) -> u32 {
    let mixed = a.wrapping_mul(0xca01_f9dd).wrapping_sub(b.wrapping_mul(0x4973_f715));
    mixed ^ (mixed >> 16)
}

#[cfg(test)]
mod tests {
    use super::seeds;

    /// What numpy 2.4.6 gives: numbers of one and of two words, without and with a place in a tree.
    #[test]
    fn as_numpy() {
        let cases: [(u64, &[u128], [u32; 4]); 6] = [
            (0, &[], [0xeff4_1bd6, 0xa030_bacb, 0x8ab2_f371, 0x5df8_813d]),
            (42, &[], [0x171c_9ae3, 0x9732_3715, 0xf31e_2760, 0x78a0_86b5]),
            (42, &[0, 0], [0x7d4a_3fcb, 0xac5d_83a2, 0x7fcc_8743, 0x169f_9cea]),
            ((1 << 63) - 1, &[5, 3], [0x62cc_252d, 0x43ee_d1e6, 0x13f2_c152, 0x2c0e_1dae]),
            ((1 << 32) + 5, &[(1 << 35) + 7, 36], [0x1ca0_36dd, 0xdfb8_736c, 0xcef4_d640, 0x6a6a_b80d]),
            (0, &[1, 1], [0x2a73_1dfb, 0x5fc5_6790, 0x79f7_d3cd, 0x6e95_3cae]),
        ];
        for (entropy, spawn_key, expected) in cases {
            assert_eq!(seeds(entropy, spawn_key), expected, "{entropy} {spawn_key:?}");
        }
    }
}
