//! Sixteen `f32` lanes as one value.

use crate::bf16::Bf16;

/// Arithmetic on sixteen numbers, one per image of a group.
///
/// # Safety
///
/// The functions may only run where the instruction set has been enabled (see `Isa::run`);
/// pointers must be valid for sixteen numbers. They need no alignment.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen numbers.
    type V: Copy;

    /// Whether the register file holds a 3 x 8 tile of accumulators.
    const WIDE: bool;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `min(max(a, low), high)`; NaN stays NaN, so that a diverged network shows.
    unsafe fn clamp(a: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// `v` where `a > b`, else `other`.
    unsafe fn select_gt(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// `v` where `a == b`, else `other`.
    unsafe fn select_eq(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// `v` where `a` is NaN, else `other`.
    unsafe fn select_nan(a: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// The sum of the sixteen, always in the same order.
    unsafe fn sum(a: Self::V) -> f32;

    /// As [`Simd::store`] to an address on a cache line, past the caches where the processor can.
    /// Call [`Simd::fence`] before another thread may read.
    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { Self::store(to, v) }
    }

    /// Sixteen numbers of type bfloat16, widened.
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        let mut numbers = [0f32; 16];
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            for (i, number) in numbers.iter_mut().enumerate() {
                *number = Bf16(*from.add(i)).widened();
            }
            Self::load(numbers.as_ptr())
        }
    }

    /// Writes the numbers as bfloat16, rounded to nearest, ties to even.
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Self::V) {
        let mut numbers = [0f32; 16];
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            Self::store(numbers.as_mut_ptr(), v);
            for (i, number) in numbers.into_iter().enumerate() {
                *to.add(i) = Bf16::rounded(number).0;
            }
        }
    }

    /// [`Simd::store_bf16`] as [`Simd::stream`], to an address on half a cache line.
    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u16, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { Self::store_bf16(to, v) }
    }

    /// Orders what was streamed before what follows.
    #[inline(always)]
    unsafe fn fence() {}

    /// Whole numbers from 0 to 255 as bytes.
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: Self::V) {
        let mut numbers = [0f32; 16];
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            Self::store(numbers.as_mut_ptr(), v);
            for (i, number) in numbers.into_iter().enumerate() {
                *to.add(i) = number as i32 as u8;
            }
        }
    }

    /// Sixteen bytes as numbers.
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::V {
        let mut numbers = [0f32; 16];
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            for (i, number) in numbers.iter_mut().enumerate() {
                *number = f32::from(*from.add(i));
            }
            Self::load(numbers.as_ptr())
        }
    }

    /// Adds the sum of each of `v` to the number at `to` and those after it.
    #[inline(always)]
    unsafe fn add_sums<const N: usize>(to: *mut f32, v: [Self::V; N]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
            unsafe { *to.add(i) += Self::sum(v) };
        }
    }

    /// The first `lanes` numbers of `v`, zeros after.
    #[inline(always)]
    unsafe fn first(v: Self::V, lanes: usize) -> Self::V {
        if lanes >= 16 {
            return v;
        }
        let mut out = [0f32; 16];
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            Self::store(out.as_mut_ptr(), v);
            for lane in &mut out[lanes..] {
                *lane = 0.0;
            }
            Self::load(out.as_ptr())
        }
    }
}

/// A computation written once for all instruction sets.
///
/// `run` and everything it calls on the hot path must be `#[inline(always)]`, so that it is
/// compiled inside the function that enables the instructions. Closures cannot be marked so: keep
/// [`Simd`]'s functions out of them, or each becomes a call.
pub(crate) trait Kernel {
    type Output;

    fn run<S: Simd>(self) -> Self::Output;
}
