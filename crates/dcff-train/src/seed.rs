//! One source of randomness: every use of chance has a seed of its own, derived from the run's.

use dcff_data::split_mix;

/// What a seed is for. Changing one use of chance leaves the others as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights.
    Weights = 1,
    /// The order of the training images; one seed per epoch.
    Order = 2,
    /// Crops and flips; one seed per epoch.
    Augmentation = 3,
    /// Which training images are held out.
    HoldOut = 4,
    /// The method's own chance (the `random` criterion).
    Method = 5,
    /// Which training images evidence is collected on.
    Evidence = 6,
    /// What a method draws in a step; one seed per step.
    Step = 7,
}

/// The seed for `purpose` number `index` of the run seeded with `run`.
///
/// Two rounds of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the three numbers.
pub fn derive_seed(run: u64, purpose: Purpose, index: u64) -> u64 {
    let mixed = split_mix(run ^ split_mix(purpose as u64));
    split_mix(mixed ^ split_mix(index.wrapping_add(0x5eed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn seeds_of_different_uses_differ() {
        use Purpose::{Augmentation, Evidence, HoldOut, Method, Order, Step, Weights};
        let mut seen = HashSet::new();
        for run in 0..10 {
            for purpose in [
                Weights,
                Order,
                Augmentation,
                HoldOut,
                Method,
                Evidence,
                Step,
            ] {
                for index in 0..100 {
                    assert!(seen.insert(derive_seed(run, purpose, index)));
                }
            }
        }
    }
}
