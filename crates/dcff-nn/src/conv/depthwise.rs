//! Convolution of every channel with a kernel of its own.
//!
//! A plane of one channel of sixteen images is read and written once: with so few products for every number it is memory that
//! decides, so nothing is padded or unrolled beforehand. Forward and input gradient are one gather with other tables.

#![expect(
    clippy::needless_range_loop,
    reason = "the loops unroll over the taps of a window"
)]

use super::sizes::{ConvConfig, Sizes};
use crate::activation::Clamp;
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::Element;
use crate::features::{Features, LANES};
use crate::threads::{self, Out};

/// For each row (or column) of the target the taps that meet it, each with the row it reads.
struct Axis {
    /// Tap and row of the source.
    pairs: Vec<(u32, u32)>,
    /// Where the pairs of a target's row begin; one more at the end.
    first: Vec<u32>,
}

impl Axis {
    fn new(target: usize, taps: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Self {
        let (mut pairs, mut first) = (Vec::new(), vec![0]);
        for i in 0..target {
            for tap in 0..taps {
                if let Some(row) = source(i, tap) {
                    pairs.push((tap as u32, row as u32));
                }
            }
            first.push(pairs.len() as u32);
        }
        Self { pairs, first }
    }

    /// What outputs read of inputs.
    fn forward(output: usize, input: usize, taps: usize, cfg: ConvConfig) -> Self {
        Self::new(output, taps, |i, tap| {
            let row = (i * cfg.stride + tap).checked_sub(cfg.padding)?;
            (row < input).then_some(row)
        })
    }

    /// What gradients of inputs read of those of outputs.
    fn backward(output: usize, input: usize, taps: usize, cfg: ConvConfig) -> Self {
        Self::new(input, taps, |i, tap| {
            let reach = (i + cfg.padding).checked_sub(tap)?;
            let row = reach / cfg.stride;
            (reach.is_multiple_of(cfg.stride) && row < output).then_some(row)
        })
    }

    fn of(&self, i: usize) -> &[(u32, u32)] {
        &self.pairs[self.first[i] as usize..self.first[i + 1] as usize]
    }

    /// The targets that three taps meet with neighbouring rows of the source, ascending or descending from one to the next.
    fn inner(&self) -> std::ops::Range<usize> {
        let full = |i: usize| {
            let pairs = self.of(i);
            pairs.len() == 3
                && pairs
                    .windows(2)
                    .all(|pair| pair[0].1.abs_diff(pair[1].1) == 1)
        };
        let targets = 0..self.first.len() - 1;
        let first = targets.clone().find(|&i| full(i)).unwrap_or(0);
        let count = (first..targets.end).take_while(|&i| full(i)).count();
        first..first + count
    }
}

/// Whether every channel has a kernel of its own.
pub(super) fn is(sizes: &Sizes, cfg: ConvConfig) -> bool {
    cfg.groups > 1 && cfg.groups == sizes.c_in && cfg.groups == sizes.c_out
}

/// The output, activation included.
pub(super) fn forward<E: Element>(
    x: &Features,
    y: &mut Features,
    w: &[f32],
    bias: Option<&[f32]>,
    cfg: ConvConfig,
    sizes: &Sizes,
    clamp: Option<Clamp>,
) {
    let ((h, width), (oh, ow)) = (sizes.input, sizes.output);
    let rows = Axis::forward(oh, h, sizes.kernel.0, cfg);
    let columns = Axis::forward(ow, width, sizes.kernel.1, cfg);
    gather::<E>(x, y, [rows, columns], w, sizes.kernel, bias, clamp, None);
}

/// The gradient of the input, added to `sum`.
pub(super) fn input_gradient<E: Element>(
    dy: &Features,
    dx: &mut Features,
    w: &[f32],
    cfg: ConvConfig,
    sizes: &Sizes,
    sum: Option<&Features>,
) {
    let ((h, width), (oh, ow)) = (sizes.input, sizes.output);
    let rows = Axis::backward(oh, h, sizes.kernel.0, cfg);
    let columns = Axis::backward(ow, width, sizes.kernel.1, cfg);
    gather::<E>(dy, dx, [rows, columns], w, sizes.kernel, None, None, sum);
}

#[expect(clippy::too_many_arguments, reason = "two callers, in this file")]
fn gather<E: Element>(
    source: &Features,
    target: &mut Features,
    [rows, columns]: [Axis; 2],
    w: &[f32],
    kernel: (usize, usize),
    bias: Option<&[f32]>,
    clamp: Option<Clamp>,
    sum: Option<&Features>,
) {
    let (isa, channels) = (Isa::current(), source.channels());
    let (from, to) = (source.plane(), target.plane());
    let (width, source_width) = (target.width(), source.width());
    let taps = kernel.0 * kernel.1;
    let inner = match kernel.1 {
        3 => columns.inner(),
        _ => 0..0,
    };
    let out = Out::new(target.cpu_mut::<E>());
    threads::each(source.groups() * channels, |plane| {
        let channel = plane % channels;
        isa.run(Gather {
            x: &source.cpu::<E>()[plane * from..][..from],
            // SAFETY: every plane is written by one task.
            y: unsafe { std::slice::from_raw_parts_mut(out.at(plane * to), to) },
            sum: sum.map(|sum| &sum.cpu::<E>()[plane * to..][..to]),
            w: &w[channel * taps..][..taps],
            start: bias.map_or(0.0, |bias| bias[channel]),
            clamp,
            rows: &rows,
            columns: &columns,
            inner: inner.clone(),
            width,
            source_width,
            kernel_width: kernel.1,
        });
    });
}

struct Gather<'a, E> {
    x: &'a [E],
    y: &'a mut [E],
    sum: Option<&'a [E]>,
    w: &'a [f32],
    start: f32,
    clamp: Option<Clamp>,
    rows: &'a Axis,
    columns: &'a Axis,
    /// Columns that three taps meet.
    inner: std::ops::Range<usize>,
    width: usize,
    source_width: usize,
    kernel_width: usize,
}

impl<E: Element> Kernel for Gather<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the axes' rows and columns lie within both planes.
        unsafe {
            let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
            let start = S::splat(self.start);
            let sum = self.sum.map(<[E]>::as_ptr);
            let height = self.y.len() / LANES / self.width;
            for i in 0..height {
                let rows = self.rows.of(i);
                let finish = |acc: S::V, j: usize| {
                    let at = (i * self.width + j) * LANES;
                    let acc = match sum {
                        Some(sum) => S::add(acc, E::load::<S>(sum.add(at))),
                        None => acc,
                    };
                    let acc = match self.clamp {
                        Some(clamp) => clamp.of::<S>(acc),
                        None => acc,
                    };
                    E::store::<S>(y.add(at), acc);
                };
                let border = |j: usize| {
                    let mut acc = start;
                    for &(a, row) in rows {
                        for &(b, column) in self.columns.of(j) {
                            let at = row as usize * self.source_width + column as usize;
                            let w = S::splat(self.w[a as usize * self.kernel_width + b as usize]);
                            acc = S::mul_add(E::load::<S>(x.add(at * LANES)), w, acc);
                        }
                    }
                    finish(acc, j);
                };
                (0..self.inner.start).for_each(border);
                if rows.len() == 3 && !self.inner.is_empty() {
                    // The taps in the order of the source's columns, as `border` goes through them.
                    let mut w = [[start; 3]; 3];
                    let mut row = [x; 3];
                    for a in 0..3 {
                        let (tap, from) = rows[a];
                        row[a] = x.add(from as usize * self.source_width * LANES);
                        for b in 0..3 {
                            w[a][b] = S::splat(self.w[tap as usize * self.kernel_width + b]);
                        }
                    }
                    for j in self.inner.clone() {
                        let columns = self.columns.of(j);
                        let at = [0, 1, 2].map(|b| columns[b].1 as usize * LANES);
                        let mut acc = start;
                        for a in 0..3 {
                            for b in 0..3 {
                                let v = E::load::<S>(row[a].add(at[b]));
                                acc = S::mul_add(v, w[a][b], acc);
                            }
                        }
                        finish(acc, j);
                    }
                } else {
                    self.inner.clone().for_each(border);
                }
                (self.inner.end..self.width).for_each(border);
            }
        }
    }
}

/// The weight gradient `[C, 1, K_h, K_w]`.
pub(super) fn weight_gradient<E: Element>(
    x: &Features,
    dy: &Features,
    cfg: ConvConfig,
    sizes: &Sizes,
) -> Vec<f32> {
    let isa = Isa::current();
    let ((h, width), (oh, ow)) = (sizes.input, sizes.output);
    let rows = Axis::forward(oh, h, sizes.kernel.0, cfg);
    let columns = Axis::forward(ow, width, sizes.kernel.1, cfg);
    let taps = sizes.kernel.0 * sizes.kernel.1;
    let mut gradient = vec![0f32; sizes.c_out * taps];
    let out = Out::new(&mut gradient);
    threads::each(sizes.c_out, |channel| {
        // SAFETY: this task alone writes the channel.
        let to = unsafe { std::slice::from_raw_parts_mut(out.at(channel * taps), taps) };
        let mut sums = vec![0f64; taps];
        for g in 0..x.groups() {
            let plane = g * sizes.c_out + channel;
            for tap in 0..taps {
                let (a, b) = (tap / sizes.kernel.1, tap % sizes.kernel.1);
                // Taps of a row share its pixels: three of them are done together.
                if sizes.kernel.1 == 3 && b > 0 {
                    continue;
                }
                isa.run(Correlate {
                    x: &x.cpu::<E>()[plane * x.plane()..][..x.plane()],
                    dy: &dy.cpu::<E>()[plane * dy.plane()..][..dy.plane()],
                    rows: &rows,
                    columns: &columns,
                    width: ow,
                    source_width: width,
                    tap: (a, b),
                    three: sizes.kernel.1 == 3,
                    sums: &mut sums[tap..],
                });
            }
        }
        for (to, sum) in to.iter_mut().zip(&sums) {
            *to = *sum as f32;
        }
    });
    gradient
}

/// The products of a row of taps (or one tap) with the gradient, added to sums.
struct Correlate<'a, E> {
    x: &'a [E],
    dy: &'a [E],
    rows: &'a Axis,
    columns: &'a Axis,
    width: usize,
    source_width: usize,
    tap: (usize, usize),
    three: bool,
    sums: &'a mut [f64],
}

impl<E: Element> Kernel for Correlate<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: the axes' rows and columns lie within both planes.
        unsafe {
            let (x, dy) = (self.x.as_ptr(), self.dy.as_ptr());
            let height = self.dy.len() / LANES / self.width;
            let inner = if self.three {
                self.columns.inner()
            } else {
                0..0
            };
            for i in 0..height {
                let row = self.rows.of(i).iter();
                let Some(&(_, row)) = row.clone().find(|(a, _)| *a as usize == self.tap.0) else {
                    continue;
                };
                let from = x.add(row as usize * self.source_width * LANES);
                let dy = dy.add(i * self.width * LANES);
                let mut acc = [S::splat(0.0); 3];
                let mut border = |j: usize| {
                    let g = E::load::<S>(dy.add(j * LANES));
                    for &(b, column) in self.columns.of(j) {
                        let b = b as usize;
                        if self.three || b == self.tap.1 {
                            let slot = if self.three { b } else { 0 };
                            let v = E::load::<S>(from.add(column as usize * LANES));
                            acc[slot] = S::mul_add(v, g, acc[slot]);
                        }
                    }
                };
                (0..inner.start).for_each(&mut border);
                let (start, end) = (inner.start, inner.end);
                (end..self.width).for_each(&mut border);
                for j in start..end {
                    let g = E::load::<S>(dy.add(j * LANES));
                    let columns = self.columns.of(j);
                    for b in 0..3 {
                        let v = E::load::<S>(from.add(columns[b].1 as usize * LANES));
                        acc[b] = S::mul_add(v, g, acc[b]);
                    }
                }
                let taps = if self.three { 3 } else { 1 };
                for b in 0..taps {
                    self.sums[b] += f64::from(S::sum(acc[b]));
                }
            }
        }
    }
}
