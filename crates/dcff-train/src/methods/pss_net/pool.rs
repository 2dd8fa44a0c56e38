//! The best subnets of one target.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// A member and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member<T> {
    /// The subnet.
    pub subnet: T,
    /// A running mean of its scores; more is better.
    pub score: f64,
}

/// Members in the order in which they came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool<T> {
    members: Vec<Member<T>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
        }
    }
}

impl<T: PartialEq> Pool<T> {
    /// The members, in the order in which they came.
    pub fn members(&self) -> &[Member<T>] {
        &self.members
    }

    /// Books the score of `subnet`: a known one's is kept with weight `decay` and blended; a new one comes in, and of more than
    /// `capacity` members the worst goes, of equally bad ones the one that came first.
    pub fn book(&mut self, subnet: T, score: f64, decay: f64, capacity: usize) {
        if let Some(known) = self.members.iter_mut().find(|m| m.subnet == subnet) {
            known.score = decay * known.score + (1.0 - decay) * score;
            return;
        }
        self.members.push(Member { subnet, score });
        if self.members.len() > capacity {
            let mut worst = 0;
            for (i, member) in self.members.iter().enumerate() {
                if member.score < self.members[worst].score {
                    worst = i;
                }
            }
            self.members.remove(worst);
        }
    }

    /// How likely each member is drawn: the softmax of scores over `temperature`.
    pub fn chances(&self, temperature: f64) -> Vec<f64> {
        let scaled = self.members.iter().map(|m| m.score / temperature);
        let top = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scaled.map(|score| (score - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    /// A member, better ones more often.
    pub fn draw(&self, temperature: f64, random: &mut Random) -> Option<&T> {
        let chances = self.chances(temperature);
        let chosen = random.weighted(chances.iter().copied());
        self.members.get(chosen).map(|member| &member.subnet)
    }

    /// The members by score, the best first; of equal ones the one that came first.
    pub fn best(&self) -> Vec<&Member<T>> {
        let mut all: Vec<_> = self.members.iter().collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all
    }
}

/// `start (end / start)^(epoch / epochs)`: how much is explored, and how evenly members are drawn, epochs counted from 0.
pub fn decayed([start, end]: [f64; 2], epoch: usize, epochs: usize) -> f64 {
    start * (end / start).powf(epoch as f64 / epochs as f64)
}

/// Whether a new subnet is tried: so often as `exploration` says, and always while there is room.
pub fn explores(drawn: f64, exploration: f64, members: usize, capacity: usize) -> bool {
    drawn < exploration || members < capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pool: &Pool<char>) -> String {
        pool.members().iter().map(|m| m.subnet).collect()
    }

    #[test]
    fn the_worst_goes_and_the_first_of_equals() {
        let mut pool = Pool::default();
        for (subnet, score) in [('a', -1.0), ('b', -2.0), ('c', -2.0)] {
            pool.book(subnet, score, 0.9, 2);
        }
        assert_eq!(names(&pool), "ac");
        // Worse than all: it does not stay.
        pool.book('d', -3.0, 0.9, 2);
        assert_eq!(names(&pool), "ac");
        // Known: 0.9 · -2 + 0.1 · -1.
        pool.book('c', -1.0, 0.9, 2);
        assert!((pool.members()[1].score + 1.9).abs() < 1e-12);
        // One that went comes back with its new score, at the end.
        pool.book('b', -0.5, 0.9, 2);
        assert_eq!(
            (names(&pool).as_str(), pool.members()[1].score),
            ("ab", -0.5)
        );
        assert_eq!(pool.best()[0].subnet, 'b');
    }

    #[test]
    fn a_cold_draw_takes_the_best() {
        let mut pool = Pool::default();
        for (subnet, score) in [('a', -0.2), ('b', -0.1)] {
            pool.book(subnet, score, 0.9, 5);
        }
        assert!(pool.chances(0.01)[1] > 0.99);
        let mut random = Random::new(1);
        let best = (0..1000).filter(|_| pool.draw(0.01, &mut random) == Some(&'b'));
        assert!(best.count() > 990);
    }

    #[test]
    fn schedules_by_hand() {
        assert_eq!(decayed([1.0, 0.01], 0, 250), 1.0);
        assert!((decayed([1.0, 0.01], 125, 250) - 0.1).abs() < 1e-12);
        assert!((decayed([1.0, 0.01], 249, 250) - 0.010_186).abs() < 1e-6);
        assert!(explores(0.5, 0.4, 3, 4) && !explores(0.5, 0.5, 4, 4) && explores(0.4, 0.5, 4, 4));
    }
}
