//! The maps that are reconstructed, and the decoders that do so.

use candle_core::{Device, Tensor, Var};
use dcff_models::{Architecture, Initialisation};
use dcff_nn::{ConvConfig, Features, InputGradient, Precision};

use super::losses::{Term, reconstruction};
use crate::error::Result;
use crate::random::Random;

/// Layers that the program of KDFS taps where they are not the ends of stages, by the name of their network.
/// A name stands for all that begin with it.
const PUBLISHED: [(&str, &[&str]); 1] = [(
    "mobilenet-v2",
    &[
        "features.1.conv.2",
        "features.6.add",
        "features.13.add",
        "features.17.conv.3",
    ],
)];

/// The positions of the layers that are tapped unless told otherwise.
pub(super) fn published(full: &Architecture) -> Result<Vec<usize>> {
    match PUBLISHED
        .iter()
        .find(|(name, _)| full.name.starts_with(name))
    {
        Some((_, layers)) => Ok(layers
            .iter()
            .filter_map(|name| full.position(name))
            .collect()),
        None => Ok(full.stage_ends()?),
    }
}

/// A layer whose maps are decoded by a 1x1 convolution and compared with the teacher's.
pub(super) struct Tap {
    pub(super) position: usize,
    pub(super) layer: String,
    /// `[C, C, 1, 1]`.
    pub(super) weight: Var,
    /// `[C]`.
    pub(super) bias: Var,
    /// Height and width of the maps.
    size: (usize, usize),
}

/// A tap's loss, and its gradients.
pub(super) struct Decoded {
    pub(super) loss: f64,
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    /// Of the student's maps.
    pub(super) maps: Option<Features>,
}

impl Tap {
    /// The decoder of the layer at `position` of `full`, drawn from `seed`: normal as CIFAR ResNets and MobileNets are, otherwise
    /// as PyTorch does.
    pub(super) fn new(
        full: &Architecture,
        position: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let shape = full.shapes()?.output(position);
        let channels = shape.channels;
        let mut random = Random::new(seed);
        let bound = 1.0 / (channels as f64).sqrt();
        let normal = (2.0 / channels as f64).sqrt();
        let weight = match full.initialisation {
            Initialisation::KaimingNormalFanIn | Initialisation::MobileNet => {
                random.normals(channels * channels, normal)
            }
            _ => random.spread(channels * channels, bound),
        };
        let bias = match full.initialisation {
            Initialisation::MobileNet => vec![0.0; channels],
            _ => random.spread(channels, bound),
        };
        Ok(Self {
            position,
            layer: full.layers[position].name.clone(),
            weight: Var::from_tensor(&Tensor::from_vec(
                weight,
                (channels, channels, 1, 1),
                device,
            )?)?,
            bias: Var::from_tensor(&Tensor::from_vec(bias, channels, device)?)?,
            size: (shape.height, shape.width),
        })
    }

    /// Multiply-accumulates of decoding one image.
    pub(super) fn macs(&self) -> u64 {
        (self.weight.elem_count() * self.size.0 * self.size.1) as u64
    }

    /// The decoded `maps` `[N, C, H, W]`.
    pub(super) fn decode(&self, maps: &Features) -> Result<Features> {
        let maps = maps.to_precision(Precision::F32)?;
        let (weight, bias) = (
            self.weight.as_detached_tensor(),
            self.bias.as_detached_tensor(),
        );
        Ok(dcff_nn::conv2d(
            &maps,
            &weight,
            Some(&bias),
            ConvConfig::default(),
        )?)
    }

    /// The loss of the student's `maps` against those of the `teacher`, and its gradients times `weight`.
    pub(super) fn loss(&self, maps: &Features, teacher: &Features, weight: f64) -> Result<Decoded> {
        let maps = maps.to_precision(Precision::F32)?;
        let decoded = self.decode(&maps)?.to_nchw()?;
        let Term { value, gradient } = reconstruction(&decoded, &teacher.to_nchw()?)?;
        let gradient = Features::from_nchw(&(gradient * weight)?)?;
        let filters = self.weight.as_detached_tensor();
        let input = InputGradient::Compute;
        let gradients = dcff_nn::conv2d_backward(
            &maps,
            &filters,
            true,
            ConvConfig::default(),
            &gradient,
            input,
        )?;
        let bias = match gradients.bias {
            Some(bias) => bias,
            None => self.bias.zeros_like()?,
        };
        Ok(Decoded {
            loss: value,
            weight: gradients.weight,
            bias,
            maps: gradients.input,
        })
    }
}
