//! Numbers from a seed, and how many tries are asked for.

/// Splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns a number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Returns the seed: `HB_FUZZ_SEED`, else 1.
pub(crate) fn seed() -> u64 {
    number("HB_FUZZ_SEED", 1)
}

/// Returns how often to try: `HB_FUZZ`, else `usual`.
pub(crate) fn count(usual: u64) -> u64 {
    number("HB_FUZZ", usual)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
