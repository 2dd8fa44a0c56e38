//! Plain Rust, for every other processor.
//!
//! Multiplication and addition stay two roundings: without the hardware instruction,
//! `f32::mul_add` is a library call.

use super::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; 16];

    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 16]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { from.cast::<[f32; 16]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn clamp(a: Self::V, low: Self::V, high: Self::V) -> Self::V {
        each(|i| match a[i] {
            x if x <= low[i] => low[i],
            x if x >= high[i] => high[i],
            x => x,
        })
    }

    #[inline(always)]
    unsafe fn select_gt(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { v[i] } else { other[i] })
    }

    #[inline(always)]
    unsafe fn select_eq(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        each(|i| if a[i] == b[i] { v[i] } else { other[i] })
    }

    #[inline(always)]
    unsafe fn select_nan(a: Self::V, v: Self::V, other: Self::V) -> Self::V {
        each(|i| if a[i].is_nan() { v[i] } else { other[i] })
    }

    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}
