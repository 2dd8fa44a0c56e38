//! What follows a layer, number by number: a range that the numbers are kept in.

use serde::{Deserialize, Serialize};

use crate::cpu::Simd;

/// What follows a layer, number by number.
///
/// Every kernel computes it as a clamp of what it would store otherwise, so that an activation is this entry and its range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `y = x`.
    #[default]
    Identity,
    /// `y = max(x, 0)`; the gradient at 0 is 0, as in PyTorch (candle's own is 1).
    Relu,
    /// `y = min(max(x, 0), 6)` (MobileNets); the gradient at 0 and 6 is 0, as in PyTorch.
    Relu6,
}

impl Activation {
    /// The range that it keeps numbers in; `None` where they stay as they are.
    pub(crate) fn clamp(self) -> Option<Clamp> {
        let (low, high) = match self {
            Self::Identity => return None,
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        };
        Some(Clamp { low, high })
    }
}

/// `y = min(max(x, low), high)`. NaN stays NaN, so that a diverged network shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clamp {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Clamp {
    /// All numbers.
    pub(crate) const ALL: Self = Self {
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    };

    /// The numbers of `v` in the range.
    ///
    /// # Safety
    ///
    /// As for [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn of<S: Simd>(self, v: S::V) -> S::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { S::clamp(v, S::splat(self.low), S::splat(self.high)) }
    }

    /// What of the gradient `dy` of the outputs `y` reaches the inputs: that of outputs strictly inside.
    ///
    /// # Safety
    ///
    /// As for [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn through<S: Simd>(self, y: S::V, dy: S::V) -> S::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            let zero = S::splat(0.0);
            let dz = S::select_gt(y, S::splat(self.low), dy, zero);
            if self.high == f32::INFINITY {
                return dz;
            }
            S::select_gt(S::splat(self.high), y, dz, zero)
        }
    }
}
