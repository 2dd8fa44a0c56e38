//! Seeded randomness whose streams do not depend on library versions: integers and floats are derived here from raw 64-bit draws.
//!
//! Generator: `Pcg64Mcg` (O'Neill, *PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
//! Generation*, 2014, <https://www.pcg-random.org>). Nothing here calls the platform's `sin` or `exp`, which differ in the last bit
//! between platforms.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A stream of random numbers.
pub(crate) struct Stream(Pcg64Mcg);

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// Stream `index` of the family `seed`: neighbouring indices are unrelated because both words pass through SplitMix64.
    pub(crate) fn indexed(seed: u64, index: u64) -> Self {
        Self::new(split_mix(split_mix(seed).wrapping_add(index)))
    }

    /// A number in `0..n`, `n >= 1`. The multiply-shift favours some values by less than `n / 2^64`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Roughly normal, mean 0, deviation 1: the sum of four 16-bit uniforms (range ±3.46), from a single draw.
    pub(crate) fn bell(&mut self) -> f32 {
        let word = self.0.next_u64();
        let sum = (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48);
        // Four uniforms on [0, 65535] have mean 131070 and deviation 65536 / sqrt(3).
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }

    /// Fisher and Yates's shuffle: every order is equally likely.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014): a bijection that scatters every bit. Seeds for
/// different purposes are derived from one through it.
pub fn split_mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_cover_their_range_evenly() {
        let mut stream = Stream::new(3);
        let mut counts = [0; 9];
        for _ in 0..9_000 {
            counts[stream.below(9)] += 1;
        }
        // 1,000 expected each, deviation 30: five deviations either side.
        assert!(
            counts.iter().all(|&c| (850..1_150).contains(&c)),
            "{counts:?}"
        );
    }

    #[test]
    fn bell_has_mean_0_and_deviation_1() {
        let mut stream = Stream::new(4);
        let draws: Vec<f32> = (0..20_000).map(|_| stream.bell()).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let variance = draws.iter().map(|d| d * d).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn indexed_streams_differ_and_repeat() {
        let first = |seed, index| Stream::indexed(seed, index).below(usize::MAX);
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_ne!(first(1, 2), first(2, 2));
        // A plain sum of seed and index would make these two the same stream.
        assert_ne!(first(1, 3), first(2, 2));
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..100).collect();
        Stream::new(5).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
