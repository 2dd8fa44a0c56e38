//! A convolution with its weights packed for inference.

use std::sync::OnceLock;

use candle_core::{Result, Tensor, bail};

use super::direct::{Direct, zeros};
use super::maps::{Blocks, Layout};
use super::winograd::Winograd;
use super::{Channels, Load, Maps};
use crate::activation::Activation;
use crate::args;
use crate::buffer::Buffer;
use crate::conv::epilogue::{Bias, Epilogue};
use crate::conv::{ConvConfig, Convolution, Sizes, conv2d_then};
use crate::features::{Features, LANES};

const OP: &str = "inference conv";

/// `act(conv(x, w) + b + residual)` with weights and bias that do not change any more.
///
/// Weights are packed on first use, once for each algorithm that the loads ask for.
pub struct Conv {
    sizes: Sizes,
    cfg: ConvConfig,
    channels: Channels,
    /// `[C_out, C_in / groups, K_h, K_w]`, and `[C_out]` where there is one.
    weight: Tensor,
    bias: Option<Tensor>,
    /// In whole blocks of sixteen.
    blocks: Buffer,
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
        let sizes = Sizes::new(OP, (channels.count(), input.0, input.1), weight.dims(), cfg)?;
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
            weight: weight.force_contiguous()?,
            bias: bias.cloned(),
            blocks: padded,
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
        let (h, w) = self.sizes.input;
        let expected = (x.dims().0, self.sizes.c_in, h, w);
        args::same(OP, "an input of dimensions", expected, x.dims())?;
        match (&x.0, residual.map(|residual| &residual.0)) {
            (Layout::Images(x), None) => self.images(x, None),
            (Layout::Images(x), Some(Layout::Images(residual))) => self.images(x, Some(residual)),
            (Layout::Channels(x), None) => self.channels_of(x, None, load),
            (Layout::Channels(x), Some(Layout::Channels(residual))) => {
                self.channels_of(x, Some(residual), load)
            }
            _ => bail!("{OP}: expected maps made for one load"),
        }
    }

    /// Sixteen images side by side: the convolution of training.
    fn images(&self, x: &Features, residual: Option<&Features>) -> Result<Maps> {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        let y = conv2d_then(x, weight, bias, self.cfg, residual, self.activation)?;
        Ok(Maps(Layout::Images(y)))
    }

    /// Sixteen channels side by side.
    fn channels_of(&self, x: &Blocks, residual: Option<&Blocks>, load: Load) -> Result<Maps> {
        if x.channels() != &self.channels {
            bail!(
                "{OP}: expected channels {:?}, got {:?}",
                self.channels,
                x.channels()
            );
        }
        let mut y = Blocks::uninit(x.batch(), self.channels(), self.sizes.output)?;
        if let Some(residual) = residual {
            args::same(OP, "a residual of dimensions", y.dims(), residual.dims())?;
        }
        let residual = residual
            .map(|residual| residual.arranged(y.channels()))
            .transpose()?;
        let epilogue = Epilogue {
            bias: Bias::Lanes(&self.blocks),
            residual: residual.as_ref().map(Blocks::numbers),
            clamp: self.activation.clamp(),
        };
        args::with_any(OP, "a weight", &self.weight, |weight| {
            self.run(self.algorithm(load), weight, x, &mut y, epilogue);
        })?;
        Ok(Maps(Layout::Channels(y)))
    }

    /// Computes all of `y` by `algorithm`, packing the weights if this is the first time.
    fn run(
        &self,
        algorithm: Algorithm,
        weight: &[f32],
        x: &Blocks,
        y: &mut Blocks,
        epilogue: Epilogue<'_>,
    ) {
        let (sizes, cfg, channels) = (self.sizes, self.cfg, &self.channels);
        // Packing stays on this thread: another task may wait for it.
        match algorithm {
            Algorithm::Direct => self
                .direct
                .get_or_init(|| Direct::new(sizes, cfg, channels, weight))
                .run(x, y, epilogue),
            Algorithm::Two => self
                .two
                .get_or_init(|| Winograd::new(sizes, cfg.padding, channels, weight))
                .run(x, y, epilogue),
            Algorithm::Four => self
                .four
                .get_or_init(|| Winograd::new(sizes, cfg.padding, channels, weight))
                .run(x, y, epilogue),
        }
    }

    /// The fastest by measured nanoseconds of an AVX-512 core; other processors rank alike.
    fn algorithm(&self, load: Load) -> Algorithm {
        let (Sizes { kernel, output, .. }, cfg) = (self.sizes, self.cfg);
        let fits = kernel == (3, 3) && cfg.stride == 1 && cfg.groups == 1 && cfg.padding <= 2;
        if !fits || cfg.algorithm == Convolution::Direct {
            return Algorithm::Direct;
        }
        let (from, to) = (self.channels.blocks(), self.sizes.c_out.div_ceil(LANES));
        let pairs = (self.sizes.c_in * to) as f64;
        // Vectors of weights that an image pays for: read from beyond the second-level cache.
        let reading = match load {
            Load::Few => 2.0 * pairs,
            Load::Several | Load::Sixteens => 2.0 / 16.0 * pairs,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use candle_core::Device;

    /// Numbers of about unit variance.
    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 + seed) * 0.618_034).fract() * 3.4 - 1.7)
            .collect()
    }

    /// The transforms against direct sums, which the tests of the crate hold against `f64`: maps
    /// that tiles do not fit, lanes without channels, every padding, residual and activation.
    #[test]
    fn algorithms_agree() {
        Isa::each(|_| {
            for (n, c_in, c_out, (h, w), padding) in [
                (1, 1, 1, (3, 3), 0),
                (2, 17, 33, (5, 9), 1),
                (3, 40, 20, (8, 8), 2),
                (19, 5, 50, (2, 3), 1),
                (1, 67, 130, (18, 7), 1),
            ] {
                let tensor = |dims: (usize, usize, usize, usize), seed| {
                    let count = dims.0 * dims.1 * dims.2 * dims.3;
                    Tensor::from_vec(numbers(count, seed), dims, &Device::Cpu).unwrap()
                };
                let cfg = ConvConfig {
                    padding,
                    ..ConvConfig::default()
                };
                let bias = Tensor::new(numbers(c_out, 0.5), &Device::Cpu).unwrap();
                let conv = Conv::new(
                    &tensor((c_out, c_in, 3, 3), 0.1),
                    Some(&bias),
                    cfg,
                    &Channels::new(c_in),
                    (h, w),
                    Activation::Relu,
                )
                .unwrap();
                let (oh, ow) = conv.sizes.output;
                let x = Blocks::from_nchw(&tensor((n, c_in, h, w), 0.2)).unwrap();
                let residual = Blocks::from_nchw(&tensor((n, c_out, oh, ow), 0.3)).unwrap();
                let by = |algorithm| {
                    let mut y = Blocks::uninit(n, conv.channels(), (oh, ow)).unwrap();
                    let epilogue = Epilogue {
                        bias: Bias::Lanes(&conv.blocks),
                        residual: Some(residual.numbers()),
                        clamp: conv.activation.clamp(),
                    };
                    args::with_any("test", "a weight", &conv.weight, |w| {
                        conv.run(algorithm, w, &x, &mut y, epilogue);
                    })
                    .unwrap();
                    let y = y.to_nchw().unwrap().flatten_all().unwrap();
                    y.to_vec1::<f32>().unwrap()
                };
                let direct = by(Algorithm::Direct);
                let scale = (c_in as f32 * 9.0).sqrt();
                for algorithm in [Algorithm::Two, Algorithm::Four] {
                    for (a, b) in direct.iter().zip(by(algorithm)) {
                        let error = (a - b).abs() / scale;
                        assert!(error < 1e-5, "{algorithm:?} {n} {c_in} {c_out}: {a} {b}");
                    }
                }
            }
        });
    }

    /// The choice itself: small maps of many channels are summed directly for one image, since the
    /// transformed weights would have to be read for it alone.
    #[test]
    fn weighs_reading_against_products() {
        let algorithms = |c_in: usize, c_out: usize, size: usize| {
            let weight = Tensor::zeros((c_out, c_in, 3, 3), candle_core::DType::F32, &Device::Cpu);
            let cfg = ConvConfig {
                padding: 1,
                ..ConvConfig::default()
            };
            let channels = Channels::new(c_in);
            let (weight, size) = (weight.unwrap(), (size, size));
            let conv = Conv::new(&weight, None, cfg, &channels, size, Activation::Relu).unwrap();
            [Load::Few, Load::Several].map(|load| conv.algorithm(load))
        };
        assert_eq!(algorithms(64, 64, 32), [Algorithm::Four; 2]);
        assert_eq!(algorithms(512, 512, 2), [Algorithm::Direct, Algorithm::Two]);
        assert_eq!(algorithms(3, 64, 32)[0], Algorithm::Direct);
    }
}
