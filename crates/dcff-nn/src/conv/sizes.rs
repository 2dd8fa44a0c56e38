//! What a convolution is told, and its sizes.

use candle_core::{Result, bail};

use super::algorithm::Convolution;
use crate::args;

/// Stride, padding and groups of a convolution, the same in both directions, and how it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvConfig {
    /// Pixels from one output's window to the next, at least 1.
    pub stride: usize,
    /// Pixels of zeros around the input.
    pub padding: usize,
    /// Independent parts that the channels are divided into; 1 is an ordinary convolution.
    pub groups: usize,
    /// The algorithms that may be used.
    pub algorithm: Convolution,
}

impl Default for ConvConfig {
    /// Stride 1, no padding, one group, the fast algorithms.
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            groups: 1,
            algorithm: Convolution::Fast,
        }
    }
}

/// Pixels of a padded map: their places are kept in 32 bits.
const MOST_PIXELS: usize = 1 << 28;

/// The sizes of one convolution, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) input: (usize, usize),
    pub(crate) output: (usize, usize),
    pub(crate) kernel: (usize, usize),
}

impl Sizes {
    /// Those of the convolution of maps of `c_in` channels of `h x width` pixels with `w`.
    pub(crate) fn new(
        op: &str,
        (c_in, h, width): (usize, usize, usize),
        w: &[usize],
        cfg: ConvConfig,
    ) -> Result<Self> {
        let &[c_out, depth, kh, kw] = w else {
            bail!("{op}: expected a weight of shape [C_out, C_in / groups, K_h, K_w], got {w:?}");
        };
        let ConvConfig {
            stride,
            padding,
            groups,
            ..
        } = cfg;
        if stride == 0 || groups == 0 {
            bail!("{op}: expected a stride and groups of at least 1, got {stride} and {groups}");
        }
        if stride.max(padding) > args::LONGEST_STEP {
            bail!(
                "{op}: expected a stride and padding of at most {}, got {stride} and {padding}",
                args::LONGEST_STEP
            );
        }
        args::count(op, &[c_in, h, width])?;
        args::count(op, w)?;
        if c_in % groups != 0 || c_out % groups != 0 || c_in / groups != depth {
            bail!(
                "{op}: expected a weight for {c_in} input channels in {groups} groups, got {w:?}"
            );
        }
        let padded = (h + 2 * padding, width + 2 * padding);
        if args::count(op, &[padded.0, padded.1])? > MOST_PIXELS {
            bail!(
                "{op}: expected a padded input of at most {MOST_PIXELS} pixels, got {} x {}",
                padded.0,
                padded.1
            );
        }
        if c_out == 0 || kh == 0 || kw == 0 || kh > padded.0 || kw > padded.1 {
            bail!(
                "{op}: expected a kernel that fits the padded input of {} x {}, got weight {w:?}",
                padded.0,
                padded.1
            );
        }
        Ok(Self {
            c_in,
            c_out,
            input: (h, width),
            output: ((padded.0 - kh) / stride + 1, (padded.1 - kw) / stride + 1),
            kernel: (kh, kw),
        })
    }

    /// Whether every output pixel meets one input pixel.
    pub(super) fn pointwise(&self, cfg: ConvConfig) -> bool {
        self.kernel == (1, 1) && cfg.padding == 0
    }

    /// The sizes of the input gradient, which is the convolution of the output's.
    pub(super) fn turned(&self) -> Self {
        Self {
            c_in: self.c_out,
            c_out: self.c_in,
            input: self.output,
            output: self.input,
            kernel: self.kernel,
        }
    }
}
