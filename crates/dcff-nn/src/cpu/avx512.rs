//! AVX-512F and BW: one register holds the sixteen lanes.

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

impl Simd for Avx512 {
    type V = __m512;

    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn clamp(a: __m512, low: __m512, high: __m512) -> __m512 {
        // The second operand is returned when either is NaN.
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, a)) }
    }

    #[inline(always)]
    unsafe fn select_gt(a: __m512, b: __m512, v: __m512, other: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), other, v) }
    }

    #[inline(always)]
    unsafe fn select_eq(a: __m512, b: __m512, v: __m512, other: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), other, v) }
    }

    #[inline(always)]
    unsafe fn select_nan(a: __m512, v: __m512, other: __m512) -> __m512 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), other, v) }
    }

    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: __m512) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm512_stream_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            // Each word moves to the upper half of its lane; one shuffle does both.
            let twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast()));
            let wide = _mm512_maskz_permutexvar_epi16(0xaaaa_aaaa, WIDEN.load(), twice);
            _mm512_castsi512_ps(wide)
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm256_storeu_si256(to.cast(), round(v)) }
    }

    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u16, v: __m512) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm256_stream_si256(to.cast(), round(v)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: __m512) {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512 {
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn add_sums<const N: usize>(to: *mut f32, v: [__m512; N]) {
        if N != 8 {
            for (i, v) in v.into_iter().enumerate() {
                // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
                unsafe { *to.add(i) += Self::sum(v) };
            }
            return;
        }
        // Two registers become one that holds half as many terms of each, three times: a swap of
        // halves, a blend and an addition.
        // SAFETY: the caller's: the instructions are there, and sixteen numbers behind the pointer.
        unsafe {
            // Lanes: four terms each of v0, v1, v2, v3 and of v4, v5, v6, v7.
            let low = quarters(halves(v[0], v[1]), halves(v[2], v[3]));
            let high = quarters(halves(v[4], v[5]), halves(v[6], v[7]));
            // Two terms each.
            let even = _mm512_shuffle_ps::<0b10_00_10_00>(low, high);
            let odd = _mm512_shuffle_ps::<0b11_01_11_01>(low, high);
            let pairs = _mm512_add_ps(even, odd);
            // Per 128 bits: (a, a, b, b); one term each.
            let folded = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
            let sums = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, folded));
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sums));
        }
    }
}

/// Indices of words.
#[repr(align(64))]
struct Words([u16; 32]);

impl Words {
    #[inline(always)]
    unsafe fn load(&self) -> __m512i {
        // SAFETY: the caller's: the instructions are there.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

/// Word `i` at the words `2 i` and `2 i + 1`.
static WIDEN: Words = Words({
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = (i / 2) as u16;
        i += 1;
    }
    words
});

/// The upper words of all lanes one after the other.
static NARROW: Words = Words({
    let mut words = [0; 32];
    let mut i = 0;
    while i < 16 {
        words[i] = (2 * i + 1) as u16;
        i += 1;
    }
    words
});

/// The numbers as bfloat16; [`Bf16::rounded`](crate::bf16::Bf16::rounded) of each.
#[inline(always)]
unsafe fn round(v: __m512) -> __m256i {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_add_epi32(half, odd);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_set1_epi32(0x0040_0000);
        let rounded = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
        _mm512_castsi512_si256(_mm512_permutexvar_epi16(NARROW.load(), rounded))
    }
}

/// Eight terms of `a`, then eight of `b`, from sixteen each.
#[inline(always)]
unsafe fn halves(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let swapped = _mm512_shuffle_f32x4::<0b01_00_11_10>(a, b);
        let kept = _mm512_mask_blend_ps(0xff00, a, b);
        _mm512_add_ps(swapped, kept)
    }
}

/// Four terms of each of four numbers, from eight of two in `a` and of two in `b`.
#[inline(always)]
unsafe fn quarters(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's: the instructions are there.
    unsafe {
        let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
        _mm512_add_ps(even, odd)
    }
}
