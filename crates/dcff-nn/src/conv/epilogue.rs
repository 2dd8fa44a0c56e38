//! What happens to a convolution's sums before they are stored, so that it costs no pass of its own.
//!
//! ```text
//! y = act(sum + b + r)
//! ```

use crate::activation::Clamp;
use crate::cpu::Simd;
use crate::element::Element;
use crate::element::LANES;

/// Bias, residual and activation.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a, E = f32> {
    pub(crate) bias: Bias<'a>,
    /// Numbers to add, which lie as the target does.
    pub(crate) residual: Option<&'a [E]>,
    pub(crate) clamp: Option<Clamp>,
}

/// What the sums of a channel, or of a block of sixteen, start from.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    Zero,
    /// A number for every channel: lanes are images.
    Channels(&'a [f32]),
    /// Sixteen numbers for every block: lanes are channels.
    Lanes(&'a [f32]),
}

impl<'a> Bias<'a> {
    /// The sums' start in channel or block `at`.
    ///
    /// # Safety
    ///
    /// As for [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(self, at: usize) -> S::V {
        // SAFETY: the caller's; slices of sixteen numbers are read.
        unsafe {
            match self {
                Self::Zero => S::splat(0.0),
                Self::Channels(bias) => S::splat(bias[at]),
                Self::Lanes(bias) => S::load(bias[at * LANES..][..LANES].as_ptr()),
            }
        }
    }

    fn starting_at(self, first: usize) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Channels(bias) => Self::Channels(&bias[first..]),
            Self::Lanes(bias) => Self::Lanes(&bias[first * LANES..]),
        }
    }
}

impl<'a> From<Option<&'a [f32]>> for Bias<'a> {
    fn from(bias: Option<&'a [f32]>) -> Self {
        bias.map_or(Self::Zero, Self::Channels)
    }
}

impl<'a, E: Element> Epilogue<'a, E> {
    pub(crate) const NOTHING: Self = Self {
        bias: Bias::Zero,
        residual: None,
        clamp: None,
    };

    /// The same from channel or block `first` on, whose numbers start `offset` behind.
    pub(crate) fn starting_at(self, first: usize, offset: usize) -> Self {
        Self {
            bias: self.bias.starting_at(first),
            residual: self.residual.map(|residual| &residual[offset..]),
            clamp: self.clamp,
        }
    }

    /// Residual and activation for the sixteen numbers of the target at `offset`.
    ///
    /// # Safety
    ///
    /// As for [`Simd`]; the residual reaches that far.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(&self, sum: S::V, offset: usize) -> S::V {
        // SAFETY: the caller's: sixteen numbers of the residual lie behind `offset`.
        unsafe {
            let mut v = sum;
            if let Some(residual) = self.residual {
                debug_assert!(residual.len() >= offset + LANES);
                v = S::add(v, E::load::<S>(residual.as_ptr().add(offset)));
            }
            if let Some(clamp) = self.clamp {
                v = clamp.of::<S>(v);
            }
            v
        }
    }
}
