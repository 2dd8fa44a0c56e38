//! The types that feature maps are stored in.
//!
//! Kernels compute in `f32`, sixteen numbers at a time. [`Element`] is what a map holds in memory:
//! a load widens, a store rounds. With bfloat16 (the upper half of an `f32`: its sign, its eight
//! bits of exponent and seven of its fraction) maps take half the memory and half the traffic,
//! which is what batch norm, pooling and sums are bound by; products gain nothing.
//!
//! A store rounds to nearest, ties to even, in integer arithmetic, so that every processor gives
//! the same bits: the conversion instruction of AVX512-BF16 flushes subnormal numbers to zero.

use std::sync::Arc;

use crate::bf16::Bf16;
use crate::buffer::{self, Buffer, Plain};
use crate::cpu::{Isa, Kernel, Simd};

/// Images that lie side by side in the CPU's layout.
pub const LANES: usize = 16;

/// The numbers of a map on the CPU.
#[derive(Clone)]
pub(crate) enum Numbers {
    F32(Arc<Buffer<f32>>),
    Bf16(Arc<Buffer<Bf16>>),
}

/// What feature maps and their gradients are stored in; parameters, statistics and all sums are
/// `f32` or wider. One exception: with the feature `cudnn`, cuDNN rounds the gradients of filters to this precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Single precision: 24 significant bits.
    #[default]
    F32,
    /// bfloat16: 8 significant bits, the exponents of single precision.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// Evaluates `$body` with `$E` standing for the type that maps of `$precision` hold.
macro_rules! by_element {
    ($precision:expr, $E:ident => $body:expr) => {
        match $precision {
            $crate::element::Precision::F32 => {
                type $E = f32;
                $body
            }
            $crate::element::Precision::Bf16 => {
                type $E = $crate::bf16::Bf16;
                $body
            }
        }
    };
}
pub(crate) use by_element;

/// What one number of a feature map is in memory.
pub(crate) trait Element: Plain + Default {
    /// Reads sixteen numbers.
    ///
    /// # Safety
    ///
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;

    /// Writes sixteen numbers, rounded.
    ///
    /// # Safety
    ///
    /// As [`Simd::store`].
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V);

    /// As `store`, past the caches if `stream`.
    ///
    /// # Safety
    ///
    /// As [`Simd::stream`]; the address is a multiple of sixteen elements.
    unsafe fn put<S: Simd>(to: *mut Self, v: S::V, stream: bool);

    fn to_f32(self) -> f32;

    /// The numbers as they are, where they are `f32`.
    fn as_f32(numbers: &[Self]) -> Option<&[f32]>;

    /// As [`Element::as_f32`], for writing.
    fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;

    /// The numbers of a map of this type.
    fn of(storage: &Numbers) -> Option<&Arc<Buffer<Self>>>;

    /// As [`Element::of`], for writing.
    fn of_mut(storage: &mut Numbers) -> Option<&mut Arc<Buffer<Self>>>;
}

// SAFETY: any sixteen bits are a number.
unsafe impl Plain for Bf16 {}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(to, v) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(to: *mut Self, v: S::V, stream: bool) {
        // SAFETY: the caller's.
        unsafe {
            if stream {
                S::stream(to, v);
            } else {
                S::store(to, v);
            }
        }
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn as_f32(numbers: &[Self]) -> Option<&[f32]> {
        Some(numbers)
    }

    fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]> {
        Some(numbers)
    }

    fn of(storage: &Numbers) -> Option<&Arc<Buffer<Self>>> {
        match storage {
            Numbers::F32(numbers) => Some(numbers),
            _ => None,
        }
    }

    fn of_mut(storage: &mut Numbers) -> Option<&mut Arc<Buffer<Self>>> {
        match storage {
            Numbers::F32(numbers) => Some(numbers),
            _ => None,
        }
    }
}

impl Element for Bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(to: *mut Self, v: S::V, stream: bool) {
        // SAFETY: the caller's.
        unsafe {
            if stream {
                S::stream_bf16(to.cast(), v);
            } else {
                S::store_bf16(to.cast(), v);
            }
        }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.widened()
    }

    fn as_f32(_numbers: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_f32_mut(_numbers: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    fn of(storage: &Numbers) -> Option<&Arc<Buffer<Self>>> {
        match storage {
            Numbers::Bf16(numbers) => Some(numbers),
            _ => None,
        }
    }

    fn of_mut(storage: &mut Numbers) -> Option<&mut Arc<Buffer<Self>>> {
        match storage {
            Numbers::Bf16(numbers) => Some(numbers),
            _ => None,
        }
    }
}

/// Copies whole vectors of numbers from one type to another, rounded where it holds less.
pub(crate) fn convert<A: Element, B: Element>(isa: Isa, from: &[A], to: &mut [B]) {
    isa.run(Convert { from, to });
}

/// As [`convert`] to single precision; a plain copy where the numbers are that already.
pub(crate) fn widen<E: Element>(isa: Isa, from: &[E], to: &mut [f32]) {
    match E::as_f32(from) {
        Some(from) => to.copy_from_slice(from),
        None => convert(isa, from, to),
    }
}

/// Has `f` write numbers in single precision: into `to` where it holds such, else into scratch, from
/// where they are rounded once. For what adds up in place.
pub(crate) fn through_f32<E: Element>(isa: Isa, to: &mut [E], f: impl FnOnce(&mut [f32])) {
    if let Some(to) = E::as_f32_mut(to) {
        return f(to);
    }
    buffer::scratch(to.len(), |scratch| {
        f(scratch);
        convert(isa, scratch, to);
    });
}

struct Convert<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Element, B: Element> Kernel for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let to = self.to.chunks_exact_mut(LANES);
        for (to, from) in to.zip(self.from.chunks_exact(LANES)) {
            // SAFETY: chunks hold sixteen numbers.
            unsafe { B::store::<S>(to.as_mut_ptr(), A::load::<S>(from.as_ptr())) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds by comparing with both neighbours in double precision.
    fn nearest(number: f32) -> u16 {
        let below = (number.to_bits() >> 16) as u16;
        let above = below + 1;
        // Beyond the largest number the next would be 2^128, which double precision holds.
        let value = |bits: u16| match bits & 0x7fff {
            0x7f80 => 2f64.powi(128).copysign(f64::from(number)),
            _ => f64::from(Bf16(bits).to_f32()),
        };
        let (low, high) = (
            (f64::from(number) - value(below)).abs(),
            (f64::from(number) - value(above)).abs(),
        );
        match low.total_cmp(&high) {
            std::cmp::Ordering::Less => below,
            std::cmp::Ordering::Greater => above,
            std::cmp::Ordering::Equal => below + (below & 1),
        }
    }

    fn both_ways(numbers: &[f32]) -> Vec<(u16, u32)> {
        let mut narrow = vec![Bf16::default(); numbers.len()];
        let mut wide = vec![0f32; numbers.len()];
        convert(Isa::current(), numbers, &mut narrow);
        convert(Isa::current(), &narrow, &mut wide);
        let wide = wide.iter().map(|wide| wide.to_bits());
        narrow.iter().map(|narrow| narrow.0).zip(wide).collect()
    }

    #[test]
    fn every_number_survives_widening() {
        let all: Vec<Bf16> = (0..=u16::MAX).map(Bf16).collect();
        Isa::each(|isa| {
            let mut wide = vec![0f32; all.len()];
            let mut back = vec![Bf16::default(); all.len()];
            convert(isa, &all, &mut wide);
            convert(isa, &wide, &mut back);
            for ((&number, &wide), &back) in all.iter().zip(&wide).zip(&back) {
                assert_eq!(wide.to_bits(), u32::from(number.0) << 16);
                // A signalling NaN becomes a quiet one.
                let quiet = if wide.is_nan() { 0x40 } else { 0 };
                assert_eq!(back.0, number.0 | quiet, "{isa:?}");
                assert_eq!(Bf16::rounded(wide), back);
            }
        });
    }

    #[test]
    fn rounds_to_nearest_even_on_every_processor() {
        // Around every bfloat16: just above it, half-way and its neighbours, just below the next.
        let mut numbers = Vec::new();
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                numbers.push(f32::from_bits(u32::from(upper) << 16 | lower));
            }
        }
        Isa::each(|isa| {
            let got = both_ways(&numbers);
            for (&number, &(narrow, wide)) in numbers.iter().zip(&got) {
                assert_eq!(Bf16::rounded(number).0, narrow, "{isa:?} {number:e}");
                assert_eq!(wide, u32::from(narrow) << 16);
                if number.is_nan() {
                    assert!(
                        f32::from_bits(wide).is_nan(),
                        "{isa:?} {:x}",
                        number.to_bits()
                    );
                } else if number.is_infinite() {
                    assert_eq!(f32::from_bits(wide), number);
                } else {
                    assert_eq!(narrow, nearest(number), "{isa:?} {number:e}");
                }
            }
        });
    }

    #[test]
    fn ties_fall_on_the_even_number_and_large_numbers_on_infinity() {
        // One unit in the last place of 1 is 2^-7.
        let unit = 2f32.powi(-7);
        for (number, expected) in [
            (1.0 + 0.5 * unit, 1.0),
            (1.0 + 1.5 * unit, 1.0 + 2.0 * unit),
            (-1.0 - 1.5 * unit, -1.0 - 2.0 * unit),
            (f32::MAX, f32::INFINITY),
            (f32::MIN, f32::NEG_INFINITY),
            (f32::from_bits(1), 0.0),
            (f32::from_bits(0x0001_8000), f32::from_bits(0x0002_0000)),
        ] {
            assert_eq!(Bf16::rounded(number).to_f32(), expected, "{number:e}");
        }
    }
}
