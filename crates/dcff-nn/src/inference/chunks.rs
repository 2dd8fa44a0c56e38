//! How a batch of images is shared among threads.

use candle_core::{Result, Tensor, bail};

use crate::threads;

/// Images that go through a network together: enough to use weights several times while they are
/// near, few enough for their maps to stay near as well.
const CHUNK: usize = 16;

/// From this many images on, a layer's time goes to products rather than to reading its weights.
const MANY: usize = 8;

/// How many images share one reading of the weights, which decides between algorithms.
///
/// It depends on the size of the whole batch alone, so that neither chunks nor threads change a bit
/// of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// Fewer than eight.
    Few,
    /// Eight and more.
    Many,
}

impl Load {
    /// That of a batch of `images`.
    pub fn of(images: usize) -> Self {
        if images < MANY { Self::Few } else { Self::Many }
    }
}

/// Runs `network` over the images `[N, C, H, W]` and returns its rows `[N, classes]`.
///
/// Of a large batch the threads take chunks, of a small one they share every layer.
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
    let (load, threads) = (Load::of(n), threads::count());
    if n < 2 * threads || (threads == 1 && n <= CHUNK) {
        return network(images, load);
    }
    let size = n.div_ceil(threads).min(CHUNK);
    let rows = threads::map(n.div_ceil(size), |chunk| {
        let first = chunk * size;
        threads::alone(|| network(&images.narrow(0, first, size.min(n - first))?, load))
    });
    Tensor::cat(&rows.into_iter().collect::<Result<Vec<_>>>()?, 0)
}
