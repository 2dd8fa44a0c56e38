//! Pooling of one channel of one group at a time.

use super::config::PoolConfig;
use crate::cpu::{Kernel, Simd};
use crate::element::Element;
use crate::element::LANES;

/// The taps of the window at output `i` that lie inside the map, and the pixel of tap 0.
#[inline(always)]
fn window(i: usize, size: usize, cfg: PoolConfig) -> (isize, usize, usize) {
    let start = (i * cfg.stride) as isize - cfg.padding as isize;
    let first = (-start).max(0) as usize;
    let last = (size as isize - start).min(cfg.kernel as isize) as usize;
    (start, first, last)
}

#[derive(Clone, Copy)]
pub(super) struct Map {
    pub(super) input: (usize, usize),
    pub(super) output: (usize, usize),
    pub(super) cfg: PoolConfig,
}

impl Map {
    /// Whether windows lie side by side and cover the map exactly.
    pub(super) fn tiles(&self) -> bool {
        let PoolConfig {
            kernel,
            stride,
            padding,
        } = self.cfg;
        kernel == stride
            && padding == 0
            && self.output.0 * kernel == self.input.0
            && self.output.1 * kernel == self.input.1
    }
}

/// Maxima and, with `TAPS`, where they came from.
pub(super) struct Max<'a, E, const TAPS: bool> {
    pub(super) map: Map,
    pub(super) x: &'a [E],
    pub(super) y: &'a mut [E],
    pub(super) taps: *mut u8,
}

impl<E: Element, const TAPS: bool> Kernel for Max<'_, E, TAPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        // SAFETY: windows are clipped to the map; `taps`, where asked for, holds as many numbers as `y`.
        unsafe {
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let mut best = S::splat(f32::NEG_INFINITY);
                    let mut tap = S::splat((y_first * cfg.kernel + x_first) as f32);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let at = (row + (x + kx as isize) as usize) * LANES;
                            let v = E::load::<S>(self.x.as_ptr().add(at));
                            let here = S::splat((ky * cfg.kernel + kx) as f32);
                            if TAPS {
                                tap = S::select_gt(v, best, here, S::select_nan(v, here, tap));
                            }
                            best = S::select_gt(v, best, v, S::select_nan(v, v, best));
                        }
                    }
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    E::store::<S>(self.y.as_mut_ptr().add(at), best);
                    if TAPS {
                        S::store_bytes(self.taps.add(at), tap);
                    }
                }
            }
        }
    }
}

/// Where windows overlap, `dx` is a sum, and `T` had better be `f32`.
pub(super) struct MaxBackward<'a, E, T> {
    pub(super) map: Map,
    pub(super) taps: *const u8,
    pub(super) dy: &'a [E],
    pub(super) dx: &'a mut [T],
    pub(super) stream: bool,
}

impl<E: Element, T: Element> Kernel for MaxBackward<'_, E, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        let dx = self.dx.as_mut_ptr();
        let tiles = self.map.tiles();
        if !tiles {
            self.dx.fill(T::default());
        }
        // SAFETY: windows are clipped to the map; `taps` holds as many bytes as `dy` numbers.
        unsafe {
            let zero = S::splat(0.0);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    let tap = S::load_bytes(self.taps.add(at));
                    let g = E::load::<S>(self.dy.as_ptr().add(at));
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let here = S::splat((ky * cfg.kernel + kx) as f32);
                            let g = S::select_eq(tap, here, g, zero);
                            let to = dx.add((row + (x + kx as isize) as usize) * LANES);
                            if tiles {
                                T::put::<S>(to, g, self.stream);
                            } else {
                                T::store::<S>(to, S::add(T::load::<S>(to), g));
                            }
                        }
                    }
                }
            }
            S::fence();
        }
    }
}

pub(super) struct Average<'a, E> {
    pub(super) map: Map,
    pub(super) x: &'a [E],
    pub(super) y: &'a mut [E],
}

impl<E: Element> Kernel for Average<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        // SAFETY: windows are clipped to the map.
        unsafe {
            let share = S::splat(1.0 / (cfg.kernel * cfg.kernel) as f32);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let mut sum = S::splat(0.0);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let at = (row + (x + kx as isize) as usize) * LANES;
                            sum = S::add(sum, E::load::<S>(self.x.as_ptr().add(at)));
                        }
                    }
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    E::store::<S>(self.y.as_mut_ptr().add(at), S::mul(sum, share));
                }
            }
        }
    }
}

pub(super) struct AverageBackward<'a, E> {
    pub(super) map: Map,
    pub(super) dy: &'a [E],
    pub(super) dx: &'a mut [f32],
}

impl<E: Element> Kernel for AverageBackward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.dx.fill(0.0);
        let (h, w) = self.map.input;
        let cfg = self.map.cfg;
        let dx = self.dx.as_mut_ptr();
        // SAFETY: windows are clipped to the map.
        unsafe {
            let share = S::splat(1.0 / (cfg.kernel * cfg.kernel) as f32);
            for oy in 0..self.map.output.0 {
                let (y, y_first, y_last) = window(oy, h, cfg);
                for ox in 0..self.map.output.1 {
                    let (x, x_first, x_last) = window(ox, w, cfg);
                    let at = (oy * self.map.output.1 + ox) * LANES;
                    let g = S::mul(E::load::<S>(self.dy.as_ptr().add(at)), share);
                    for ky in y_first..y_last {
                        let row = (y + ky as isize) as usize * w;
                        for kx in x_first..x_last {
                            let to = dx.add((row + (x + kx as isize) as usize) * LANES);
                            S::store(to, S::add(S::load(to), g));
                        }
                    }
                }
            }
        }
    }
}

pub(super) struct Mean<'a, E> {
    pub(super) x: &'a [E],
    pub(super) y: &'a mut [E],
}

impl<E: Element> Kernel for Mean<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: whole vectors.
        unsafe {
            let mut sum = S::splat(0.0);
            for v in self.x.chunks_exact(LANES) {
                sum = S::add(sum, E::load::<S>(v.as_ptr()));
            }
            let share = S::splat(1.0 / (self.x.len() / LANES) as f32);
            E::store::<S>(self.y.as_mut_ptr(), S::mul(sum, share));
        }
    }
}

pub(super) struct Spread<'a, E> {
    pub(super) dy: &'a [E],
    pub(super) dx: &'a mut [E],
}

impl<E: Element> Kernel for Spread<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: whole vectors.
        unsafe {
            let share = S::splat(1.0 / (self.dx.len() / LANES) as f32);
            let g = S::mul(E::load::<S>(self.dy.as_ptr()), share);
            for v in self.dx.chunks_exact_mut(LANES) {
                E::store::<S>(v.as_mut_ptr(), g);
            }
        }
    }
}
