//! AVX2 with FMA: two registers hold the sixteen lanes.

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

impl Simd for Avx2 {
    type V = [__m256; 2];

    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn clamp(a: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            // The second operand is returned when either is NaN.
            [
                _mm256_min_ps(high[0], _mm256_max_ps(low[0], a[0])),
                _mm256_min_ps(high[1], _mm256_max_ps(low[1], a[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn select_gt(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            [
                _mm256_blendv_ps(other[0], v[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
                _mm256_blendv_ps(other[1], v[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn select_eq(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            [
                _mm256_blendv_ps(other[0], v[0], _mm256_cmp_ps::<_CMP_EQ_OQ>(a[0], b[0])),
                _mm256_blendv_ps(other[1], v[1], _mm256_cmp_ps::<_CMP_EQ_OQ>(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn select_nan(a: Self::V, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            [
                _mm256_blendv_ps(other[0], v[0], _mm256_cmp_ps::<_CMP_UNORD_Q>(a[0], a[0])),
                _mm256_blendv_ps(other[1], v[1], _mm256_cmp_ps::<_CMP_UNORD_Q>(a[1], a[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        // SAFETY: the caller's: the instructions are there.
        unsafe {
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            _mm256_stream_ps(to, v[0]);
            _mm256_stream_ps(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm256_storeu_si256(to.cast(), round(v)) }
    }

    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u16, v: Self::V) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm256_stream_si256(to.cast(), round(v)) }
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::V {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))),
            ]
        }
    }
}

/// The numbers as bfloat16; [`Bf16::rounded`](crate::bf16::Bf16::rounded) of each.
#[inline(always)]
unsafe fn round(v: [__m256; 2]) -> __m256i {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        // Packing interleaves the halves of both registers.
        let packed = _mm256_packus_epi32(upper(v[0]), upper(v[1]));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
    }
}

/// Each number rounded, its sixteen bits in the lower half of the lane.
#[inline(always)]
unsafe fn upper(v: __m256) -> __m256i {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_castsi256_ps(_mm256_add_epi32(half, odd));
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let rounded = _mm256_blendv_ps(rounded, _mm256_castsi256_ps(quiet), nan);
        _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded))
    }
}
