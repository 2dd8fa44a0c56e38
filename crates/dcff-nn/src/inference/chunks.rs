//! How a batch of images is cut, and shared among threads.

use candle_core::{Result, Tensor, bail};

use crate::element::LANES;
use crate::threads;

/// From this many images on, a layer's time goes to products rather than to reading its weights.
const SEVERAL: usize = 8;

/// Images that go through the network together at most, in groups of sixteen: their maps take
/// memory.
const TOGETHER: usize = 16 * LANES;

/// How many images a network is given at once, which decides between layouts and algorithms.
///
/// It depends on the number of images alone, so that threads do not change a bit of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// Fewer than eight, channels side by side; each reads the weights for itself.
    Few,
    /// Eight to fifteen, channels side by side.
    Several,
    /// Sixteen side by side, as in training.
    Sixteens,
}

/// Runs `network` over the images `[N, C, H, W]` and returns its rows `[N, classes]`.
///
/// Groups of sixteen images go first, then the rest. If there are more threads than a few images
/// need, each image of the rest gets threads of its own; otherwise they share every layer.
///
/// # Errors
///
/// The first of `network`'s, or no images.
pub fn in_chunks(
    images: &Tensor,
    network: impl Fn(&Tensor, Load) -> Result<Tensor> + Sync + Send,
) -> Result<Tensor> {
    let n = images.dims().first().copied().unwrap_or(0);
    if n == 0 {
        bail!(
            "inference: expected at least one image, got {:?}",
            images.dims()
        );
    }
    let groups = n / LANES * LANES;
    let mut rows = Vec::new();
    for first in (0..groups).step_by(TOGETHER) {
        let count = TOGETHER.min(groups - first);
        rows.push(network(&images.narrow(0, first, count)?, Load::Sixteens)?);
    }
    let rest = n - groups;
    let load = if rest < SEVERAL {
        Load::Few
    } else {
        Load::Several
    };
    let parts = if rest < 2 * threads::count() {
        rest.min(1)
    } else {
        threads::count()
    };
    let run = |part: usize| {
        let (first, last) = (part * rest / parts, (part + 1) * rest / parts);
        network(&images.narrow(0, groups + first, last - first)?, load)
    };
    if parts == 1 {
        rows.push(run(0)?);
    } else {
        for part in threads::map(parts, |part| threads::alone(|| run(part))) {
            rows.push(part?);
        }
    }
    match &rows[..] {
        [row] => Ok(row.clone()),
        _ => Tensor::cat(&rows, 0),
    }
}
