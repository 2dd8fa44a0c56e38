//! Masks that are drawn: each filter is on or off at random, and its two logits learn from what the loss says of its mask.
//!
//! ```text
//! y = softmax((a + g) / τ)        g: Gumbel noise, a pair of logits a filter: off, on
//! h = 1 where y_on > y_off, otherwise 0
//! m = (h - sg(y_on)) + y_on       exactly 0 or 1, with the gradient of y_on
//! dL/da_on = dL/dm y_on (1 - y_on) / τ = -dL/da_off
//! ```
//!
//! Jang, Gu and Poole, *Categorical Reparameterization with Gumbel-Softmax*, ICLR 2017, <https://arxiv.org/abs/1611.01144>. A tie
//! is off. The temperature changes the gradient, never the chance of a filter.

use crate::random::Random;

/// Two numbers of a filter: of being off, and of being on.
pub type Pair = [f32; 2];

/// What was drawn for the filters of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// The softmax of logits and noise.
    pub soft: Vec<Pair>,
    /// 1 for filters that are on, otherwise 0.
    pub mask: Vec<f32>,
}

impl Draw {
    /// The masks that `logits` and `noise` give at `temperature`.
    pub fn new(logits: &[Pair], noise: &[Pair], temperature: f64) -> Self {
        let temperature = temperature as f32;
        let soft: Vec<Pair> = logits
            .iter()
            .zip(noise)
            .map(|(logit, noise)| {
                let [off, on] = [0, 1].map(|i| (logit[i] + noise[i]) / temperature);
                let most = off.max(on);
                let [off, on] = [off, on].map(|x| (x - most).exp());
                [off / (off + on), on / (off + on)]
            })
            .collect();
        let mask = soft
            .iter()
            .map(|[off, on]| f32::from(u8::from(on > off)))
            .collect();
        Self { soft, mask }
    }

    /// The gradient of the logits from `upstream`, that of the masks.
    pub fn pull_back(&self, upstream: &[f32], temperature: f64) -> Vec<Pair> {
        let pairs = self.soft.iter().zip(upstream);
        pairs
            .map(|([off, on], &upstream)| {
                let slope = (f64::from(*on) * f64::from(*off) / temperature) as f32;
                [-upstream * slope, upstream * slope]
            })
            .collect()
    }

    /// How many filters are on.
    pub fn kept(&self) -> u64 {
        kept(&self.mask)
    }
}

/// The masks without chance: on where that is the more likely.
pub fn ticket(logits: &[Pair]) -> Vec<f32> {
    logits
        .iter()
        .map(|[off, on]| f32::from(u8::from(on > off)))
        .collect()
}

/// How many filters of `mask` are on.
pub(super) fn kept(mask: &[f32]) -> u64 {
    mask.iter().filter(|&&m| m > 0.0).count() as u64
}

/// Noise for the logits of `filters` filters.
pub(super) fn noise(random: &mut Random, filters: usize) -> Vec<Pair> {
    let mut one = || random.gumbel() as f32;
    (0..filters).map(|_| [one(), one()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of PyTorch at a temperature of 0.5.
    #[test]
    fn draws_and_gradients_are_those_of_pytorch() {
        let logits = [[0.2, -0.1], [0.0, 0.5], [1.0, -1.0]];
        let noise = [[0.3, 0.9], [1.2, -0.4], [-0.5, 2.0]];
        let draw = Draw::new(&logits, &noise, 0.5);
        for (got, expected) in draw.soft.iter().zip([0.645_656, 0.099_750, 0.731_059]) {
            assert!((got[1] - expected).abs() < 1e-6, "{got:?}");
        }
        assert_eq!(draw.mask, [1.0, 0.0, 1.0]);
        assert_eq!(draw.kept(), 2);
        let gradients = draw.pull_back(&[1.0, 2.0, 3.0], 0.5);
        for (got, expected) in gradients.iter().zip([0.457_568, 0.359_201, 1.179_672]) {
            assert!(
                (got[1] - expected).abs() < 2e-6 && got[0] == -got[1],
                "{got:?}"
            );
        }
    }

    #[test]
    fn a_tie_is_off() {
        assert_eq!(Draw::new(&[[0.5, 0.25]], &[[0.0, 0.25]], 1.0).mask, [0.0]);
        assert_eq!(ticket(&[[0.5, 0.5], [0.5, 0.6]]), [0.0, 1.0]);
    }

    /// The chance of a filter is the logistic function of the difference of its logits, 0.690 of 0.8, at any temperature.
    #[test]
    fn the_temperature_leaves_the_chance_alone() {
        let filters = 200_000;
        let logits = vec![[0.1, 0.9]; filters];
        for (seed, temperature) in [(1, 1.0), (2, 0.5), (3, 0.1)] {
            let noise = noise(&mut Random::new(seed), filters);
            let draw = Draw::new(&logits, &noise, temperature);
            let share = draw.kept() as f64 / filters as f64;
            assert!((share - 0.690).abs() < 0.005, "{share} at {temperature}");
        }
    }
}
