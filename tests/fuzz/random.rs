//! Random choices, and mutations of bytes and texts that know nothing of their format.

/// A small generator (SplitMix64), so that a failing input can be made again from its seed and number alone.
pub struct Random(u64);

impl Random {
    /// For input `number` of `kind` in a run with this seed: what one kind draws does not depend on another.
    pub fn of(seed: u64, kind: &str, number: u64) -> Self {
        let name = kind.bytes().fold(0u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        let mut random = Self(seed ^ name.rotate_left(32));
        Self(random.next() ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below `limit`, which may be zero and then counts as one.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Small, any, or next to a power of two.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(64) as u64,
            1 => self.next(),
            2 => 1u64 << self.below(64),
            _ => (1u64 << self.below(64)).wrapping_sub(1),
        }
    }
}

/// Text that is likely to be meaningful where it lands.
const SPLICES: &[&str] = &[
    "-1",
    "0",
    "1e308",
    "1e999",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[",
    "\"\"",
    "\"..\"",
    "\"/\"",
    "NaN",
    "-Infinity",
    ",",
    ":",
    "}",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "F64",
    "BF16",
    "F4",
    "F8_E4M3",
    "I64",
    "BOOL",
    "C64",
    "__metadata__",
    "data_offsets",
    "shape",
    "dtype",
    "weight_map",
    "_class_name",
    "é",
    "\u{1F34E}",
    "\u{301}",
    "(((",
    ":1.3)",
    ":-1e9)",
    "[a:b:",
    "|",
    "BREAK",
    " AND ",
    "<lora:x:1>",
];

/// One to four edits of `bytes`.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        let span = (1 + random.below(12)).min(bytes.len() - at);
        match random.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..at + span)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..at + span].to_vec();
                let to = random.below(bytes.len());
                let times = if random.one_in(8) { 1 + random.below(200) } else { 1 };
                bytes.splice(to..to, copy.repeat(times));
            }
            5 => drop(bytes.splice(at..at, random.pick(SPLICES).bytes())),
            6 => drop(bytes.splice(at..at + span, random.pick(SPLICES).bytes())),
            // A number of two, four or eight bytes, of either order.
            7 => {
                let number = random.number();
                let number = if random.one_in(2) { number.to_le_bytes() } else { number.to_be_bytes() };
                let size = [2, 4, 8][random.below(3)].min(bytes.len() - at);
                bytes[at..at + size].copy_from_slice(&number[..size]);
            }
            // Replaces a number after `at`: of all edits, this one most often leaves valid JSON.
            _ => {
                let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { continue };
                let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| start + i);
                bytes.splice(start..end, random.number().to_string().into_bytes());
            }
        }
    }
}

/// `seed` after edits as of [`mutate`].
pub fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    mutate(&mut bytes, random);
    bytes
}

/// The same of a text.
pub fn mutated_text(text: &str, random: &mut Random) -> String {
    String::from_utf8_lossy(&mutated(text.as_bytes(), random)).into_owned()
}
