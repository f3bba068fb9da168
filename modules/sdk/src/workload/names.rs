//! Names for new pods, made from what was seen rather than from chance.

use std::collections::BTreeSet;

/// The letters and digits that Kubernetes makes names of: no vowels, so no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const HASH_LENGTH: usize = 10;
/// A generated name is a DNS label.
const NAME_LENGTH_MAX: usize = 63;

/// Ten letters and digits that follow from a text and, should they be taken, from a count of collisions.
pub fn hash(text: &str, collisions: i64) -> String {
    let seed = fnv(fnv(FNV_OFFSET, text.as_bytes()), &collisions.to_le_bytes());
    letters(mix(seed), HASH_LENGTH)
}

fn letters(mut rest: u64, count: usize) -> String {
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        text.push(char::from(ALPHABET[(rest % 27) as usize]));
        rest /= 27;
    }
    text
}

/// An endless supply of names `<base>-xxxxx`, the same for the same seed, without those that are taken.
pub struct Names {
    base: String,
    seed: u64,
    taken: BTreeSet<String>,
}

impl Names {
    /// Names under a base, from the facts that must be the same for the names to be the same.
    pub fn new<'a>(base: &str, facts: impl IntoIterator<Item = &'a str>, taken: BTreeSet<String>) -> Self {
        let mut room = (NAME_LENGTH_MAX - SUFFIX_LENGTH - 1).min(base.len());
        while !base.is_char_boundary(room) {
            room -= 1;
        }
        let seed = facts.into_iter().fold(FNV_OFFSET, |hash, fact| fnv(fnv(hash, fact.as_bytes()), b"\0"));
        Names { base: format!("{}-", &base[..room]), seed, taken }
    }
}

impl Iterator for Names {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            self.seed = fnv(self.seed, b"+");
            let name = format!("{}{}", self.base, letters(mix(self.seed), SUFFIX_LENGTH));
            if self.taken.insert(name.clone()) {
                return Some(name);
            }
        }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads neighbouring hashes over the whole range (the finalizer of MurmurHash3).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_facts_make_the_same_names_and_others_make_others() {
        let names = |fact: &str| Names::new("web", [fact], BTreeSet::new()).take(500).collect::<Vec<_>>();
        assert_eq!(names("a"), names("a"));
        assert_ne!(names("a"), names("b"));
        assert_eq!(names("a").iter().collect::<BTreeSet<_>>().len(), 500);
    }

    #[test]
    fn a_long_base_is_cut_to_a_label() {
        let name = Names::new(&"x".repeat(80), ["a"], BTreeSet::new()).next();
        assert_eq!(name.map(|name| name.len()), Some(63));
    }
}
