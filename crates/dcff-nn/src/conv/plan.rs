//! Where a convolution's terms lie: tables shared by all images and channels.

use std::ops::Range;

use super::sizes::ConvConfig;
use crate::cpu::Isa;
use crate::element::{self, Element};

/// One convolution as gathering from a padded copy of its source.
///
/// The forward pass gathers from the input. The input gradient gathers from the output's gradient;
/// with a stride `s`, the input pixels fall into `s x s` phases that meet different taps.
pub(crate) struct Plan {
    /// Height and width of the padded source.
    pub(crate) padded: (usize, usize),
    /// Row and column of the source's first pixel in the padded source (negative: cropped).
    pub(crate) origin: (isize, isize),
    /// Height and width of the source.
    pub(crate) source: (usize, usize),
    pub(crate) phases: Vec<Phase>,
}

/// Pixels of the target that share their taps.
pub(crate) struct Phase {
    /// Offset in the padded source, per pixel.
    pub(crate) pixel_x: Vec<u32>,
    /// Offset in the target, per pixel.
    pub(crate) pixel_y: Vec<u32>,
    /// Offset from the pixel's, and index in the kernel's rows and columns.
    pub(crate) taps: Vec<(u32, usize)>,
}

/// Some rows of the target.
pub(crate) struct Band {
    /// Rows of the padded source that they meet.
    pub(crate) rows: Range<usize>,
    /// Their pixels, per phase.
    pub(crate) pixels: Vec<Range<usize>>,
}

impl Plan {
    /// `y[oy, ox] = Σ w[ky, kx] x[oy s - p + ky, ox s - p + kx]`.
    pub(crate) fn forward(
        (h, w): (usize, usize),
        (oh, ow): (usize, usize),
        (kh, kw): (usize, usize),
        cfg: ConvConfig,
    ) -> Self {
        let (s, p) = (cfg.stride, cfg.padding);
        let padded = (h + 2 * p, w + 2 * p);
        let mut phase = Phase {
            pixel_x: Vec::with_capacity(oh * ow),
            pixel_y: (0..(oh * ow) as u32).collect(),
            taps: Vec::with_capacity(kh * kw),
        };
        for oy in 0..oh {
            for ox in 0..ow {
                phase.pixel_x.push((oy * s * padded.1 + ox * s) as u32);
            }
        }
        for ky in 0..kh {
            for kx in 0..kw {
                phase.taps.push(((ky * padded.1 + kx) as u32, ky * kw + kx));
            }
        }
        Self {
            padded,
            origin: (p as isize, p as isize),
            source: (h, w),
            phases: vec![phase],
        }
    }

    /// `dx[iy, ix] = Σ w[ky, kx] dy[(iy + p - ky) / s, (ix + p - kx) / s]`, whole quotients only.
    pub(crate) fn input_gradient(
        (h, w): (usize, usize),
        (oh, ow): (usize, usize),
        (kh, kw): (usize, usize),
        cfg: ConvConfig,
    ) -> Self {
        let (s, p) = (cfg.stride, cfg.padding);
        // Rows of dy that some pixel meets: from `p / s - reach` to `(h - 1 + p) / s`.
        let (reach_y, reach_x) = ((kh - 1) / s, (kw - 1) / s);
        let first = p / s;
        let padded = (
            (h - 1 + p) / s - first + reach_y + 1,
            (w - 1 + p) / s - first + reach_x + 1,
        );
        let origin = (
            reach_y as isize - first as isize,
            reach_x as isize - first as isize,
        );
        // Of a stride longer than the map only few phases have pixels.
        let met = |size: usize| {
            let mut met: Vec<usize> = (0..size.min(s)).map(|i| (i + p) % s).collect();
            met.sort_unstable();
            met
        };
        let (met_y, met_x) = (met(h), met(w));
        let mut phases = Vec::with_capacity(met_y.len() * met_x.len());
        for &phase_y in &met_y {
            for &phase_x in &met_x {
                let mut phase = Phase {
                    pixel_x: Vec::new(),
                    pixel_y: Vec::new(),
                    taps: Vec::new(),
                };
                for iy in (0..h).filter(|iy| (iy + p) % s == phase_y) {
                    for ix in (0..w).filter(|ix| (ix + p) % s == phase_x) {
                        let at = ((iy + p) / s - first) * padded.1 + (ix + p) / s - first;
                        phase.pixel_x.push(at as u32);
                        phase.pixel_y.push((iy * w + ix) as u32);
                    }
                }
                for ky in (phase_y..kh).step_by(s) {
                    for kx in (phase_x..kw).step_by(s) {
                        let at = (reach_y - ky / s) * padded.1 + reach_x - kx / s;
                        phase.taps.push((at as u32, ky * kw + kx));
                    }
                }
                phases.push(phase);
            }
        }
        Self {
            padded,
            origin,
            source: (oh, ow),
            phases,
        }
    }

    /// Whether the source can be read where it is.
    pub(crate) fn in_place(&self) -> bool {
        self.origin == (0, 0) && self.padded.1 == self.source.1 && self.padded.0 <= self.source.0
    }

    /// Numbers of one channel of the padded source.
    pub(crate) fn padded_len(&self) -> usize {
        self.padded.0 * self.padded.1 * crate::LANES
    }

    /// Cuts the target of `height x width` pixels into bands of `rows` rows.
    pub(crate) fn bands(&self, height: usize, width: usize, rows: usize) -> Vec<Band> {
        (0..height)
            .step_by(rows)
            .map(|row| {
                let (first, last) = (row * width, (row + rows) * width);
                let pixels: Vec<Range<usize>> = self
                    .phases
                    .iter()
                    .map(|phase| {
                        let before = |end| phase.pixel_y.partition_point(|&y| (y as usize) < end);
                        before(first)..before(last)
                    })
                    .collect();
                // Rows of the padded source that the band's pixels meet.
                let (mut low, mut high) = (self.padded.0, 0);
                for (phase, pixels) in self.phases.iter().zip(&pixels) {
                    let reach = phase.taps.iter().map(|tap| tap.0).max();
                    if let (false, Some(reach)) = (pixels.is_empty(), reach) {
                        let row = |at: u32| at as usize / self.padded.1;
                        low = low.min(row(phase.pixel_x[pixels.start]));
                        let last = phase.pixel_x[pixels.end - 1] + reach;
                        high = high.max((row(last) + 1).min(self.padded.0));
                    }
                }
                Band {
                    rows: low..high.max(low),
                    pixels,
                }
            })
            .collect()
    }

    /// Copies `rows` (counted in the padded source) of one channel, zeros around what there is.
    pub(crate) fn pad<E: Element>(&self, isa: Isa, rows: Range<usize>, from: &[E], to: &mut [f32]) {
        let lanes = crate::LANES;
        let pw = self.padded.1;
        let (sh, sw) = self.source;
        // Columns of the padded row that have a source.
        let left = self.origin.1.clamp(0, pw as isize) as usize;
        let right = (self.origin.1 + sw as isize).clamp(left as isize, pw as isize) as usize;
        for row in rows {
            let to = &mut to[row * pw * lanes..][..pw * lanes];
            let source = row as isize - self.origin.0;
            if source < 0 || source >= sh as isize {
                to.fill(0.0);
                continue;
            }
            let skip = (left as isize - self.origin.1) as usize;
            let from = &from[(source as usize * sw + skip) * lanes..][..(right - left) * lanes];
            to[..left * lanes].fill(0.0);
            element::widen(isa, from, &mut to[left * lanes..right * lanes]);
            to[right * lanes..].fill(0.0);
        }
    }
}
