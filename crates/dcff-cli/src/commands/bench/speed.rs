//! What the processor could do.

/// How fast the processor is with all threads at work.
#[derive(Clone, Copy)]
pub(super) struct Speed {
    pub(super) threads: usize,
    /// Operations per second of all threads, were they to do nothing but multiply.
    pub(super) limit: f64,
}

impl Speed {
    pub(super) fn measured() -> Self {
        let threads = rayon::current_num_threads();
        Self {
            threads,
            limit: threads as f64 * dcff_nn::gemm_limit(),
        }
    }

    pub(super) fn share(self, rate: f64) -> f64 {
        rate / self.limit
    }
}
