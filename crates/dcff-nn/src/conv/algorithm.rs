//! Which algorithms a convolution may use.
//!
//! Winograd's transforms save multiplications and cost accuracy: a 3x3 convolution then rounds to
//! about 1e-6 of its largest output instead of 1e-7. Training does not mind; a comparison with
//! another program, step by step, does.

/// Which algorithms 3x3 convolutions with stride 1 may use on the CPU. Results of the two differ by rounding, so a run that is
/// to be repeated must not change it half-way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Convolution {
    /// Winograd's transforms where they win.
    #[default]
    Fast,
    /// Sums of products only: slower, with the rounding of an ordinary convolution.
    Direct,
}
