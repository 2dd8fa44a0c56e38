//! Sizes as the kernels take them.

use candle_core::{Result, bail};

use crate::element::Precision;

/// A size as the kernels take it.
pub(super) fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!(
            "expected maps of at most {} numbers a side, got {size}",
            i32::MAX
        ),
    }
}

/// Dimensions as the kernels take them.
pub(super) fn ints<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        *out = int(size)?;
    }
    Ok(out)
}

/// Bytes of a number.
pub(super) fn bytes(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}
