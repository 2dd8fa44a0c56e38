//! Numbers that depend on nothing but a seed, for what a method draws: masks, subnets, first weights of its own.
//!
//! SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).

use dcff_data::split_mix;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 53 random bits, and a number that counts them all.
    fn bits(&mut self) -> (f64, f64) {
        let drawn = split_mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((drawn >> 11) as f64, (1u64 << 53) as f64)
    }

    /// At least 0 and less than 1.
    pub fn unit(&mut self) -> f64 {
        let (bits, all) = self.bits();
        bits / all
    }

    /// Between 0 and 1 and neither of them, so that a logarithm is finite.
    pub fn inside(&mut self) -> f64 {
        let (bits, all) = self.bits();
        (bits + 0.5) / all
    }

    /// At least `low` and less than `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// The position of one of `weights`, as often as they say.
    pub fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone) -> usize {
        let mut left = self.unit() * weights.clone().sum::<f64>();
        let mut chosen = 0;
        for (i, weight) in weights.enumerate() {
            if weight > 0.0 {
                chosen = i;
                if left < weight {
                    break;
                }
                left -= weight;
            }
        }
        chosen
    }

    /// Gumbel noise: `-ln` of an exponential variable.
    pub fn gumbel(&mut self) -> f64 {
        -(-self.inside().ln()).ln()
    }

    /// `count` numbers of a normal distribution around 0 with `deviation`, by the transform of Box and Muller.
    pub fn normals(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut one = || {
            let radius = (-2.0 * self.inside().ln()).sqrt();
            (deviation * radius * (std::f64::consts::TAU * self.inside()).cos()) as f32
        };
        (0..count).map(|_| one()).collect()
    }

    /// `count` numbers between `-bound` and `bound`, each as likely.
    pub fn spread(&mut self, count: usize, bound: f64) -> Vec<f32> {
        (0..count)
            .map(|_| ((2.0 * self.inside() - 1.0) * bound) as f32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first output of SplitMix64 for the seed 0 is 0xe220a8397b1dcdaf.
    #[test]
    fn the_first_number_is_that_of_the_published_generator() {
        let top = (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64;
        let all = (1u64 << 53) as f64;
        assert_eq!(Random::new(0).unit(), top / all);
        assert_eq!(Random::new(0).inside(), (top + 0.5) / all);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(7);
        let mean = |draw: &mut dyn FnMut() -> f64| (0..20_000).map(|_| draw()).sum::<f64>() / 2e4;
        assert!((mean(&mut || random.between(2.0, 4.0)) - 3.0).abs() < 0.02);
        // Euler's constant is the mean of Gumbel's distribution; its deviation is 1.28.
        assert!((mean(&mut || random.gumbel()) - 0.577_22).abs() < 0.04);
        let squares = |values: Vec<f32>| {
            let squares = values.iter().map(|&x| f64::from(x).powi(2));
            squares.sum::<f64>() / values.len() as f64
        };
        assert!((squares(random.normals(20_000, 2.0)) - 4.0).abs() < 0.2);
        assert!((squares(random.spread(20_000, 3.0)) - 3.0).abs() < 0.1);
    }

    #[test]
    fn weights_that_are_nothing_are_never_chosen() {
        let mut random = Random::new(3);
        let mut seen = [0u32; 4];
        for _ in 0..4000 {
            seen[random.weighted([0.0, 1.0, 3.0, 0.0].into_iter())] += 1;
        }
        assert_eq!([seen[0], seen[3]], [0, 0]);
        assert!((850..1150).contains(&seen[1]), "{seen:?}");
    }
}
