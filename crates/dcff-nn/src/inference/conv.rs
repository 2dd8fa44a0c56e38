//! A convolution with its weights packed for inference.

use std::sync::OnceLock;

use candle_core::{Result, Tensor, bail};

use super::direct::{Direct, zeros};
use super::kernel::Epilogue;
use super::winograd::Winograd;
use super::{Channels, Load, Maps};
use crate::args;
use crate::buffer::Buffer;
use crate::conv::{ConvConfig, Convolution, Sizes};
use crate::elementwise::Activation;
use crate::features::LANES;

/// `act(conv(x, w) + b + residual)` with weights and bias that do not change any more.
///
/// Weights are packed on first use, once for each algorithm that the loads ask for.
pub struct Conv {
    sizes: Sizes,
    cfg: ConvConfig,
    channels: Channels,
    /// As given, `[C_out, C_in / groups, K_h, K_w]`.
    weight: Vec<f32>,
    /// In whole blocks.
    bias: Buffer,
    activation: Activation,
    direct: OnceLock<Direct>,
    two: OnceLock<Winograd<2>>,
    four: OnceLock<Winograd<4>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Direct,
    Two,
    Four,
}

impl std::fmt::Debug for Conv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conv")
            .field("sizes", &self.sizes)
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}

impl Conv {
    /// Takes over `weight` `[C_out, C_in / groups, K_h, K_w]` and `bias` `[C_out]` for inputs of
    /// height and width `input` whose channels lie as `channels` says.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit together, or a tensor that is not `f32` on the CPU.
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        cfg: ConvConfig,
        channels: &Channels,
        input: (usize, usize),
        activation: Activation,
    ) -> Result<Self> {
        const OP: &str = "inference conv";
        let sizes = Sizes::new(OP, (channels.count(), input.0, input.1), weight, cfg)?;
        let mut padded = zeros(sizes.c_out.next_multiple_of(LANES));
        if let Some(bias) = bias {
            args::with(OP, "a bias", bias, &[sizes.c_out], |bias| {
                padded[..bias.len()].copy_from_slice(bias);
            })?;
        }
        Ok(Self {
            sizes,
            cfg,
            channels: channels.clone(),
            weight: args::with_any(OP, "a weight", weight, <[f32]>::to_vec)?,
            bias: padded,
            activation,
            direct: OnceLock::new(),
            two: OnceLock::new(),
            four: OnceLock::new(),
        })
    }

    /// Where the output's channels lie.
    pub fn channels(&self) -> Channels {
        Channels::new(self.sizes.c_out)
    }

    /// `act(conv(x, w) + b + residual)` for `x` `[N, C_in, H, W]` and a residual
    /// `[N, C_out, H', W']`.
    ///
    /// # Errors
    ///
    /// Other dimensions than those it was made for.
    pub fn forward(&self, x: &Maps, residual: Option<&Maps>, load: Load) -> Result<Maps> {
        const OP: &str = "inference conv";
        let (h, w) = self.sizes.input;
        let expected = (x.batch(), self.sizes.c_in, h, w);
        args::same(OP, "an input of dimensions", expected, x.dims())?;
        if x.channels() != &self.channels {
            bail!(
                "{OP}: expected channels {:?}, got {:?}",
                self.channels,
                x.channels()
            );
        }
        let mut y = Maps::uninit(x.batch(), self.channels(), self.sizes.output);
        let residual = match residual {
            Some(residual) => {
                args::same(OP, "a residual of dimensions", y.dims(), residual.dims())?;
                Some(residual.arranged(y.channels()))
            }
            None => None,
        };
        let epilogue = Epilogue {
            bias: Some(&self.bias),
            residual: residual.as_ref().map(Maps::numbers),
            relu: self.activation == Activation::Relu,
        };
        let (sizes, cfg, channels, weight) = (self.sizes, self.cfg, &self.channels, &self.weight);
        // Packing stays on this thread: another task may wait for it.
        match self.algorithm(load) {
            Algorithm::Direct => self
                .direct
                .get_or_init(|| Direct::new(sizes, cfg, channels, weight))
                .run(x, &mut y, epilogue),
            Algorithm::Two => self
                .two
                .get_or_init(|| Winograd::new(sizes, cfg.padding, channels, weight))
                .run(x, &mut y, epilogue),
            Algorithm::Four => self
                .four
                .get_or_init(|| Winograd::new(sizes, cfg.padding, channels, weight))
                .run(x, &mut y, epilogue),
        }
        Ok(y)
    }

    /// The fastest by measured nanoseconds of an AVX-512 core; other processors rank alike.
    fn algorithm(&self, load: Load) -> Algorithm {
        let (Sizes { kernel, output, .. }, cfg) = (self.sizes, self.cfg);
        let fits = kernel == (3, 3) && cfg.stride == 1 && cfg.groups == 1 && cfg.padding <= 2;
        if !fits || Convolution::current() == Convolution::Direct {
            return Algorithm::Direct;
        }
        let (from, to) = (self.channels.blocks(), self.sizes.c_out.div_ceil(LANES));
        let pairs = (self.sizes.c_in * to) as f64;
        // Vectors of weights that an image pays for: read from beyond the second-level cache.
        let reading = match load {
            Load::Few => 2.0 * pairs,
            Load::Many => 2.0 / 16.0 * pairs,
        };
        // Tiles of one block have too few sums to hide a multiplication's latency.
        let product = if to == 1 { 0.4 } else { 0.22 };
        let direct = 9.0 * ((output.0 * output.1) as f64 * product * pairs + reading);
        let by_tiles = |m: usize, transform: f64| {
            let tiles = (output.0.div_ceil(m) * output.1.div_ceil(m)) as f64;
            let points = ((m + 2) * (m + 2)) as f64;
            let transforms = tiles * (from + to) as f64 * transform;
            transforms + points * (tiles * 0.24 * pairs + reading)
        };
        let (two, four) = (by_tiles(2, 30.0), by_tiles(4, 100.0));
        if direct <= two.min(four) {
            Algorithm::Direct
        } else if two < four {
            Algorithm::Two
        } else {
            Algorithm::Four
        }
    }
}
