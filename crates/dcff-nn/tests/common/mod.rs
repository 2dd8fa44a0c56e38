//! References in double precision, as plain as possible, and random inputs for them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use candle_core::{Device, Tensor};
use dcff_nn::{ConvConfig, Features, Isa};

/// A linear congruential generator: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Numbers of about unit variance.
    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| (self.below(4001) as f32 - 2000.0) / 1000.0)
            .collect()
    }
}

pub fn tensor(data: &[f32], dims: &[usize]) -> Tensor {
    Tensor::from_slice(data, dims, &Device::Cpu).unwrap()
}

pub fn features(data: &[f32], dims: [usize; 4]) -> Features {
    Features::from_nchw(&tensor(data, &dims)).unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn maps(x: &Features) -> Vec<f32> {
    numbers(&x.to_nchw().unwrap())
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The largest difference over the root mean square of the reference.
pub fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square: f64 = expected.iter().map(|e| e * e).sum();
    let scale = (square / expected.len() as f64).sqrt().max(1e-3);
    got.iter()
        .zip(expected)
        .map(|(&g, e)| (f64::from(g) - e).abs())
        .fold(
            0.0,
            |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) },
        )
        / scale
}

#[track_caller]
pub fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    let error = error(got, expected);
    assert!(
        error <= tolerance,
        "{what}: error {error:e} above {tolerance:e}"
    );
}

/// A convolution's inputs and sizes.
#[derive(Clone, Debug)]
pub struct Conv {
    pub n: usize,
    pub c_in: usize,
    pub c_out: usize,
    pub h: usize,
    pub w: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub padding: usize,
    pub groups: usize,
}

impl Conv {
    pub fn cfg(&self) -> ConvConfig {
        ConvConfig {
            stride: self.stride,
            padding: self.padding,
            groups: self.groups,
            ..ConvConfig::default()
        }
    }

    pub fn output(&self) -> (usize, usize) {
        (
            (self.h + 2 * self.padding - self.kh) / self.stride + 1,
            (self.w + 2 * self.padding - self.kw) / self.stride + 1,
        )
    }

    pub fn x_dims(&self) -> [usize; 4] {
        [self.n, self.c_in, self.h, self.w]
    }

    pub fn w_dims(&self) -> [usize; 4] {
        [self.c_out, self.c_in / self.groups, self.kh, self.kw]
    }

    pub fn y_dims(&self) -> [usize; 4] {
        let (oh, ow) = self.output();
        [self.n, self.c_out, oh, ow]
    }

    /// Calls `f(x index, w index, y index)` for every product of the convolution.
    pub fn terms(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (oh, ow) = self.output();
        let (from, to) = (self.c_in / self.groups, self.c_out / self.groups);
        for n in 0..self.n {
            for o in 0..self.c_out {
                for c in 0..from {
                    let channel = o / to * from + c;
                    for u in 0..self.kh {
                        for v in 0..self.kw {
                            for i in 0..oh {
                                for j in 0..ow {
                                    let y = (i * self.stride + u) as isize - self.padding as isize;
                                    let x = (j * self.stride + v) as isize - self.padding as isize;
                                    if y < 0
                                        || x < 0
                                        || y >= self.h as isize
                                        || x >= self.w as isize
                                    {
                                        continue;
                                    }
                                    f(
                                        ((n * self.c_in + channel) * self.h + y as usize) * self.w
                                            + x as usize,
                                        ((o * from + c) * self.kh + u) * self.kw + v,
                                        ((n * self.c_out + o) * oh + i) * ow + j,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub fn product(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// Runs `f` on a pool of `threads`, with the instruction set of this thread.
pub fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    let isa = Isa::current();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(|| isa.with(f).unwrap())
}
