//! Choosing by a seed, and damaging bytes: the mutations of a test run, which libFuzzer is not part of.

/// A stream of numbers that its seed decides (splitmix64).
pub struct Draw(u64);

/// What decoders treat specially: sprinkled into inputs.
const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"9223372036854775808",
    b"0.1",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc0\x80",
    b"\0",
    b"\n",
    b" ",
    b"&a",
    b"*a",
    b"<<: *a",
    b"- ",
    b"|",
    b"!!binary",
    b"---\n",
    b"metadata",
    b"name",
    b"spec",
    b"containers",
    b"$patch",
    b"replace",
    b"delete",
    b"$retainKeys",
    b"$setElementOrder/containers",
    b"$deleteFromPrimitiveList/finalizers",
    b"/-",
    b"/0",
    b"~0",
    b"~1",
    b"op",
    b"path",
    b"value",
    b"from",
    b"copy",
    b"move",
    b"..",
    b"/",
    b"%2e",
    b"%",
    b"+",
    b"==",
    b"!=",
    b" in (",
    b" notin (",
    b")",
    b"Ki",
    b"e3",
    b"m",
    b"*/",
    b"-",
    b"?",
    b"@",
    b"sha256:",
    b"_",
    b"x-kubernetes-",
    b"type",
    b"properties",
    b"\x80\x80\x80\x80\x10",
];

/// The words in libFuzzer's form: one a line, in quotes, by their bytes.
pub fn dictionary() -> String {
    let escaped = |word: &[u8]| word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    WORDS.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect()
}

impl Draw {
    /// A stream.
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end.max(1) as u64).unwrap_or(0)
    }

    /// One of `items`, which are some.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// One of `pool`, damaged in some places: bits, bytes, runs and words, and parts of others of the pool.
    pub fn mutation(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(pool).clone();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes, pool);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let start = self.below(bytes.len() + 1);
        let end = start + self.below((bytes.len() - start + 1).min(32));
        match self.below(7) {
            0 => bytes.iter_mut().skip(start).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            1 => bytes.iter_mut().skip(start).take(1).for_each(|byte| *byte = self.below(256) as u8),
            2 => drop(bytes.splice(start..end, [])),
            3 => drop(bytes.splice(start..end, self.pick(WORDS).iter().copied())),
            4 => {
                let run = bytes[start..end].to_vec();
                bytes.splice(start..start, run.repeat(1 + self.below(3)));
            }
            5 => {
                let other = self.pick(pool);
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from + 1).min(64));
                drop(bytes.splice(start..end, other[from..to].iter().copied()));
            }
            _ => bytes.truncate(start),
        }
    }
}
