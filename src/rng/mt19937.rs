//! MT19937, the Mersenne twister: Matsumoto & Nishimura, "Mersenne Twister: a 623-dimensionally equidistributed uniform
//! pseudorandom number generator", ACM TOMACS 8(1), 1998. Seeding is the authors' 2002 version (`init_genrand`).

/// Words of state (the recurrence's degree, `n` in the paper).
const N: usize = 624;
/// The recurrence's middle offset, `m` in the paper.
const M: usize = 397;

/// The generator's state: `N` words and the position of the next word to hand out.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// A generator seeded with 32 bits.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        // The paper's tempering transform.
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next 64 random bits, the first word drawn on top (PyTorch's order).
    pub fn next_u64(&mut self) -> u64 {
        let high = self.next_u32();
        let low = self.next_u32();
        u64::from(high) << 32 | u64::from(low)
    }

    /// Replaces the state by the next `N` words of the recurrence x[k+n] = x[k+m] ⊕ (upper(x[k]) | lower(x[k+1])) A.
    fn twist(&mut self) {
        for k in 0..N {
            let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % N] & 0x7fff_ffff);
            let a = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[k] = self.state[(k + M) % N] ^ (y >> 1) ^ a;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Mt19937;

    /// The 10 000th output for the default seed is fixed by the C++ standard ([rand.predef]).
    #[test]
    fn ten_thousandth_output() {
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
