//! One channel of one group at a time: statistics, application, and their gradients.

use crate::activation::Clamp;
use crate::cpu::{Kernel, Simd};
use crate::element::Element;
use crate::element::LANES;

/// Numbers of a block whose sums are kept in single precision.
const BLOCK: usize = 1024 * LANES;

/// Count, mean and sum of squares about the mean.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    pub(super) count: f64,
    pub(super) mean: f64,
    pub(super) squares: f64,
}

impl Moments {
    pub(super) fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares
                + other.squares
                + delta * delta * self.count * other.count / count,
        }
    }
}

/// The moments of one channel of one group.
pub(super) struct Measure<'a, E> {
    pub(super) x: &'a [E],
    pub(super) lanes: usize,
}

impl<E: Element> Kernel for Measure<'_, E> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Simd>(self) -> Moments {
        let mut total = Moments::default();
        for block in self.x.chunks(BLOCK) {
            let count = (block.len() / LANES * self.lanes) as f64;
            // SAFETY: blocks hold whole vectors.
            unsafe {
                let sum = deviations::<S, E, 1>(block, S::splat(0.0));
                let mean = S::sum(S::first(sum, self.lanes)) / count as f32;
                let squares = deviations::<S, E, 2>(block, S::splat(mean));
                total = total.join(Moments {
                    count,
                    mean: f64::from(mean),
                    squares: f64::from(S::sum(S::first(squares, self.lanes))),
                });
            }
        }
        total
    }
}

/// `Σ (x - about)`, or with `POWER` 2 `Σ (x - about)²`, in eight interleaved sums.
#[inline(always)]
unsafe fn deviations<S: Simd, E: Element, const POWER: u8>(x: &[E], about: S::V) -> S::V {
    // SAFETY: the caller's: whole vectors of sixteen numbers.
    unsafe {
        let mut acc = [S::splat(0.0); 8];
        let whole = x.len() / (8 * LANES) * (8 * LANES);
        for i in (0..whole).step_by(8 * LANES) {
            for (j, acc) in acc.iter_mut().enumerate() {
                let d = S::sub(E::load::<S>(x.as_ptr().add(i + j * LANES)), about);
                *acc = if POWER == 1 {
                    S::add(*acc, d)
                } else {
                    S::mul_add(d, d, *acc)
                };
            }
        }
        for i in (whole..x.len()).step_by(LANES) {
            let d = S::sub(E::load::<S>(x.as_ptr().add(i)), about);
            acc[0] = if POWER == 1 {
                S::add(acc[0], d)
            } else {
                S::mul_add(d, d, acc[0])
            };
        }
        for step in [4, 2, 1] {
            for i in 0..step {
                acc[i] = S::add(acc[i], acc[i + step]);
            }
        }
        acc[0]
    }
}

/// `y = act(scale (x - mean) + shift + residual)` for one channel of one group.
pub(super) struct Apply<'a, E> {
    pub(super) x: &'a [E],
    pub(super) residual: Option<&'a [E]>,
    pub(super) y: &'a mut [E],
    pub(super) mean: f32,
    pub(super) scale: f32,
    pub(super) shift: f32,
    pub(super) clamp: Option<Clamp>,
    pub(super) lanes: usize,
    pub(super) stream: bool,
}

impl<E: Element> Kernel for Apply<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: all slices hold the same number of whole vectors.
        unsafe {
            let (mean, scale, shift) = (
                S::splat(self.mean),
                S::splat(self.scale),
                S::splat(self.shift),
            );
            let y_to = self.y.as_mut_ptr();
            for i in (0..self.x.len()).step_by(LANES) {
                let centred = S::sub(E::load::<S>(self.x.as_ptr().add(i)), mean);
                let mut y = S::mul_add(centred, scale, shift);
                if let Some(residual) = self.residual {
                    y = S::add(y, E::load::<S>(residual.as_ptr().add(i)));
                }
                if let Some(clamp) = self.clamp {
                    y = clamp.of::<S>(y);
                }
                E::put::<S>(y_to.add(i), S::first(y, self.lanes), self.stream);
            }
            S::fence();
        }
    }
}

/// `Σ dz` and `Σ dz (x - mean)` for one channel of one group.
pub(super) struct Sums<'a, E> {
    pub(super) x: &'a [E],
    pub(super) dy: &'a [E],
    /// The output and its range, where only outputs inside let the gradient through.
    pub(super) y: Option<(&'a [E], Clamp)>,
    pub(super) mean: f32,
}

/// `dy`, or if there is a `y`, `dy` where that lies inside its range.
#[inline(always)]
unsafe fn through<S: Simd, E: Element>(y: Option<(&[E], Clamp)>, dy: *const E, at: usize) -> S::V {
    // SAFETY: the caller's: whole vectors of sixteen numbers.
    unsafe {
        let dz = E::load::<S>(dy.add(at));
        match y {
            Some((y, clamp)) => clamp.through::<S>(E::load::<S>(y.as_ptr().add(at)), dz),
            None => dz,
        }
    }
}

impl<E: Element> Kernel for Sums<'_, E> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self) -> (f64, f64) {
        let mut total = (0.0, 0.0);
        // SAFETY: all slices hold the same number of whole vectors. Unused lanes of `dy` are 0.
        unsafe {
            let (x, dy) = (self.x.as_ptr(), self.dy.as_ptr());
            let mean = S::splat(self.mean);
            let zero = S::splat(0.0);
            for start in (0..self.x.len()).step_by(BLOCK) {
                let (mut plain, mut centred) = ([zero; 4], [zero; 4]);
                let end = (start + BLOCK).min(self.x.len());
                let whole = start + (end - start) / (4 * LANES) * (4 * LANES);
                for i in (start..whole).step_by(4 * LANES) {
                    for j in 0..4 {
                        let at = i + j * LANES;
                        let d = S::sub(E::load::<S>(x.add(at)), mean);
                        let dz = through::<S, E>(self.y, dy, at);
                        plain[j] = S::add(plain[j], dz);
                        centred[j] = S::mul_add(dz, d, centred[j]);
                    }
                }
                for at in (whole..end).step_by(LANES) {
                    let d = S::sub(E::load::<S>(x.add(at)), mean);
                    let dz = through::<S, E>(self.y, dy, at);
                    plain[0] = S::add(plain[0], dz);
                    centred[0] = S::mul_add(dz, d, centred[0]);
                }
                let plain = S::add(S::add(plain[0], plain[1]), S::add(plain[2], plain[3]));
                let pairs = (
                    S::add(centred[0], centred[1]),
                    S::add(centred[2], centred[3]),
                );
                total.0 += f64::from(S::sum(plain));
                total.1 += f64::from(S::sum(S::add(pairs.0, pairs.1)));
            }
        }
        total
    }
}

/// `dx = a dz - b (x - mean) - c` for one channel of one group; also `dz`, for a residual.
pub(super) struct Backward<'a, E> {
    pub(super) x: &'a [E],
    pub(super) dy: &'a [E],
    pub(super) y: Option<(&'a [E], Clamp)>,
    pub(super) dx: &'a mut [E],
    pub(super) dz: Option<&'a mut [E]>,
    pub(super) mean: f32,
    pub(super) a: f32,
    pub(super) b: f32,
    pub(super) c: f32,
    pub(super) lanes: usize,
    pub(super) stream: bool,
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        // SAFETY: all slices hold the same number of whole vectors.
        unsafe {
            let (mean, a) = (S::splat(self.mean), S::splat(self.a));
            let (b, c) = (S::splat(-self.b), S::splat(-self.c));
            let (x, dy, to) = (self.x.as_ptr(), self.dy.as_ptr(), self.dx.as_mut_ptr());
            let dz_to = self.dz.as_mut().map(|dz| dz.as_mut_ptr());
            for i in (0..self.x.len()).step_by(LANES) {
                let d = S::sub(E::load::<S>(x.add(i)), mean);
                let dz = through::<S, E>(self.y, dy, i);
                let dx = S::mul_add(a, dz, S::mul_add(b, d, c));
                E::put::<S>(to.add(i), S::first(dx, self.lanes), self.stream);
                if let Some(to) = dz_to {
                    E::put::<S>(to.add(i), dz, self.stream);
                }
            }
            S::fence();
        }
    }
}
