//! Where the time of a pass goes, layer by layer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a layer's time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// Computing its output.
    Forward,
    /// Computing the gradients of its inputs and parameters.
    Backward,
    /// Making its weights from the filters that are kept, and their gradients from those of the weights: `P W`, `Pᵀ dŴ`.
    Fusion,
}

/// Wall-clock time by layer and pass, summed over all passes of the networks that [`crate::Network::set_profile`] gave it to.
///
/// A layer that is computed together with others (`act(norm(x) + residual)`) has the time of all of them under the
/// first. Work on a GPU is not waited for, so times are those of the CPU's kernels only.
#[derive(Debug, Default)]
pub struct Profile(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    seconds: BTreeMap<(usize, Pass), f64>,
    /// Time already booked inside each measurement under way, the innermost last.
    inside: Vec<f64>,
}

impl Profile {
    /// Seconds spent on `pass` of the layer at `layer` of the compact architecture.
    pub fn seconds(&self, layer: usize, pass: Pass) -> f64 {
        self.spent()
            .seconds
            .get(&(layer, pass))
            .copied()
            .unwrap_or(0.0)
    }

    /// Forgets what was measured.
    pub fn reset(&self) {
        self.spent().seconds.clear();
    }

    /// Calls `f` and books its time, less what `f` books itself.
    pub(crate) fn measure<R>(&self, layer: usize, pass: Pass, f: impl FnOnce() -> R) -> R {
        self.spent().inside.push(0.0);
        let start = Instant::now();
        let result = f();
        let seconds = start.elapsed().as_secs_f64();
        let mut spent = self.spent();
        let inside = spent.inside.pop().unwrap_or(0.0);
        *spent.seconds.entry((layer, pass)).or_default() += seconds - inside;
        if let Some(outer) = spent.inside.last_mut() {
            *outer += seconds;
        }
        result
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `f`, and books its time where there is a profile.
pub(crate) fn timed<R>(
    profile: Option<&Arc<Profile>>,
    layer: usize,
    pass: Pass,
    f: impl FnOnce() -> R,
) -> R {
    match profile {
        Some(profile) => profile.measure(layer, pass, f),
        None => f(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_booked_inside_is_not_booked_twice() {
        let profile = Profile::default();
        let spin = || {
            let start = Instant::now();
            while start.elapsed().as_micros() < 200 {
                std::hint::spin_loop();
            }
        };
        let start = Instant::now();
        profile.measure(3, Pass::Forward, || {
            profile.measure(3, Pass::Fusion, || {
                spin();
                spin();
            });
            spin();
        });
        let all = start.elapsed().as_secs_f64();
        let (forward, fusion) = (
            profile.seconds(3, Pass::Forward),
            profile.seconds(3, Pass::Fusion),
        );
        assert!(
            forward >= 2e-4 && fusion >= 4e-4,
            "forward {forward} fusion {fusion}"
        );
        assert!(forward + fusion <= all, "{forward} + {fusion} > {all}");
        assert_eq!(profile.seconds(3, Pass::Backward), 0.0);
        profile.reset();
        assert_eq!(profile.seconds(3, Pass::Forward), 0.0);
    }
}
