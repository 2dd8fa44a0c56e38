//! Sixteen `f32` lanes as one value.

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
    /// `max(a, 0)`; NaN stays NaN, so that a diverged network shows.
    unsafe fn relu(a: Self::V) -> Self::V;
    /// `v` where `a > b`, else `other`.
    unsafe fn select_gt(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// `v` where `a == b`, else `other`.
    unsafe fn select_eq(a: Self::V, b: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// `v` where `a` is NaN, else `other`.
    unsafe fn select_nan(a: Self::V, v: Self::V, other: Self::V) -> Self::V;
    /// The sum of the sixteen, always in the same order.
    unsafe fn sum(a: Self::V) -> f32;

    /// The first `lanes` numbers of `v`, zeros after.
    #[inline(always)]
    unsafe fn first(v: Self::V, lanes: usize) -> Self::V {
        if lanes >= 16 {
            return v;
        }
        let mut out = [0f32; 16];
        unsafe {
            Self::store(out.as_mut_ptr(), v);
            for lane in &mut out[lanes..] {
                *lane = 0.0;
            }
            Self::load(out.as_ptr())
        }
    }
}
