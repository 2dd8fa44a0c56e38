//! bfloat16: the upper half of an `f32`.

/// A number of type bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

impl Bf16 {
    /// The nearest to `number`; ties to even.
    #[inline(always)]
    pub(crate) fn rounded(number: f32) -> Self {
        let bits = number.to_bits();
        Self(if number.is_nan() {
            // Quiet, so that it does not become an infinity when its fraction lies below.
            (bits >> 16) as u16 | 0x40
        } else {
            // Half a unit in the last place, less one where the last bit is even: a tie falls.
            ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
        })
    }

    /// The same number in single precision.
    #[inline(always)]
    pub(crate) fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}
