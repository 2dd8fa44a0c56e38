//! NEON, which every 64-bit Arm processor has: four registers hold the sixteen lanes.

use std::arch::aarch64::*;

use super::simd::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

#[target_feature(enable = "neon")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

macro_rules! each {
    (|$i:ident| $body:expr) => {{
        let part = |$i: usize| $body;
        [part(0), part(1), part(2), part(3)]
    }};
}

impl Simd for Neon {
    type V = [float32x4_t; 4];

    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { each!(|i| vld1q_f32(from.add(4 * i))) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vaddq_f32(a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vsubq_f32(a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vmulq_f32(a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vfmaq_f32(c[i], a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn clamp(a: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vminq_f32(vmaxq_f32(a[i], low[i]), high[i])) }
    }

    #[inline(always)]
    unsafe fn select_gt(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), v[i], other[i])) }
    }

    #[inline(always)]
    unsafe fn select_eq(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vbslq_f32(vceqq_f32(a[i], b[i]), v[i], other[i])) }
    }

    #[inline(always)]
    unsafe fn select_nan(a: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { each!(|i| vbslq_f32(vceqq_f32(a[i], a[i]), other[i], v[i])) }
    }

    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3]))) }
    }
}
