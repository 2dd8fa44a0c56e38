//! A compact network on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use dcff_models::{Architecture, LayerKind, Network, ParameterKind, Views, parameters};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, weights};

/// The name of the weights' file.
pub const WEIGHTS: &str = "model.safetensors";
/// The name of the description's file.
pub const CONFIG: &str = "config.json";

/// A description larger than this is a mistake or an attack.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Networks larger than this (8 GiB of weights) are refused before memory is taken for them.
const MAX_PARAMETERS: u64 = 1 << 31;
/// What a safetensors header may add to the weights.
pub(crate) const MAX_HEADER_BYTES: u64 = 16 << 20;
/// A file of weights larger than this belongs to no network that is accepted.
pub const MAX_WEIGHTS_BYTES: u64 = 4 * MAX_PARAMETERS + MAX_HEADER_BYTES;

/// `config.json`: everything but the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Always `dcff`.
    pub model_type: String,
    /// The version of this library that wrote it.
    pub dcff_version: String,
    /// The narrow network.
    pub architecture: Architecture,
    /// How an image becomes the network's input; the block that timm's readers know.
    pub pretrained_cfg: Preprocessing,
    /// How the network was made, for people; not read when loading.
    #[serde(default)]
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// How an image becomes the network's input, in timm's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Channels, height, width.
    pub input_size: [usize; 3],
    /// Mean of each channel of images in 0..=1.
    pub mean: Vec<f32>,
    /// Deviation of each channel of images in 0..=1.
    pub std: Vec<f32>,
    /// How images of another size are resized.
    pub interpolation: String,
    /// The share of the resized image that is kept.
    pub crop_pct: f64,
    /// The number of logits.
    pub num_classes: usize,
    /// The classes in the order of the logits.
    pub label_names: Vec<String>,
}

/// A compact network: its description and its tensors.
#[derive(Clone, Debug)]
pub struct Artefact {
    /// The description.
    pub config: Config,
    tensors: BTreeMap<String, Tensor>,
}

impl Artefact {
    /// Collapses `network` as seen through `views`.
    ///
    /// # Errors
    /// When the views do not fit the network, or the labels and channels not the preprocessing.
    pub fn new(
        network: &Network,
        views: &Views,
        preprocessing: Preprocessing,
        provenance: BTreeMap<String, serde_json::Value>,
    ) -> Result<Self> {
        let plain = network.collapse(views)?;
        let config = Config {
            model_type: "dcff".into(),
            dcff_version: env!("CARGO_PKG_VERSION").into(),
            architecture: plain.compact().clone(),
            pretrained_cfg: preprocessing,
            provenance,
        };
        check(&config, Path::new(CONFIG))?;
        Ok(Self {
            config,
            tensors: plain.state()?,
        })
    }

    /// An artefact of parts that came from elsewhere; `path` is named in errors about the tensors.
    pub(crate) fn from_parts(
        config: Config,
        tensors: BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self> {
        check(&config, Path::new(CONFIG))?;
        let artefact = Self { config, tensors };
        artefact.check_tensors(path)?;
        Ok(artefact)
    }

    /// The artefact's files: their names and bytes. The same artefact always gives the same bytes.
    ///
    /// # Errors
    /// Those of reading a tensor from its device.
    pub fn to_files(&self) -> Result<[(&'static str, Vec<u8>); 2]> {
        let provenance = serde_json::Value::from_iter(self.config.provenance.clone()).to_string();
        let metadata = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            ("dcff_version".to_owned(), self.config.dcff_version.clone()),
            ("provenance".to_owned(), provenance),
        ]);
        let weights = weights::tensors_to_bytes(&self.tensors, &metadata)?;
        let config = serde_json::to_string_pretty(&self.config)
            .map_err(|error| Error::content(Path::new(CONFIG), error.to_string()))?;
        Ok([
            (WEIGHTS, weights),
            (CONFIG, format!("{config}\n").into_bytes()),
        ])
    }

    /// Writes the folder `path` whole or not at all, replacing an older one.
    ///
    /// # Errors
    /// [`Error::File`] with the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        write(path, &self.to_files()?)
    }

    /// Reads the folder `path`. Nothing in it is trusted: sizes are checked before memory is taken.
    ///
    /// # Errors
    /// When a file is missing or unsound, the tensors are not those of the description, or a weight is not finite.
    /// Weights in half or double precision become `f32`, and prefixes that PyTorch's wrappers put before every name
    /// (`module.`, `_orig_mod.`) are taken off.
    pub fn load(path: &Path) -> Result<Self> {
        let config_path = path.join(CONFIG);
        let text = dcff_file::read(&config_path, MAX_CONFIG_BYTES)?;
        let config: Config = serde_json::from_slice(&text)
            .map_err(|error| Error::content(&config_path, error.to_string()))?;
        let count = check(&config, &config_path)?;

        let weights_path = path.join(WEIGHTS);
        // Of double precision they take twice the room.
        let (tensors, _) = weights::read_tensors(&weights_path, count * 8 + MAX_HEADER_BYTES)?;
        let tensors = weights::unwrapped(tensors.into_iter().collect());
        let artefact = Self { config, tensors };
        artefact.check_tensors(&weights_path)?;
        Ok(artefact)
    }

    /// The same weights for images of another size.
    ///
    /// # Errors
    /// When the network has no such input, or its weights depend on the size.
    pub fn with_input(mut self, input: [usize; 3]) -> Result<Self> {
        self.config.architecture = self.config.architecture.with_input(input);
        self.config.pretrained_cfg.input_size = input;
        Self::from_parts(self.config, self.tensors, Path::new(WEIGHTS))
    }

    /// The tensors under PyTorch's state-dict keys.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The plain network, ready to run on `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn network(&self, device: &Device) -> Result<Network> {
        let architecture = &self.config.architecture;
        let mut network = Network::new(architecture, architecture, 0, device)?;
        let state: HashMap<_, _> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        network.load(&state)?;
        Ok(network)
    }

    /// The weights for layers of `candle_nn` that a program of its own builds, under PyTorch's state-dict keys.
    pub fn var_builder(&self, device: &Device) -> candle_nn::VarBuilder<'static> {
        let tensors = self.tensors.clone().into_iter().collect();
        candle_nn::VarBuilder::from_tensors(tensors, DType::F32, device)
    }

    fn check_tensors(&self, path: &Path) -> Result<()> {
        let architecture = &self.config.architecture;
        let fail =
            |name: &str, message: String| Err(Error::content(path, format!("{name}: {message}")));
        let parameters = parameters(architecture, architecture)?;
        for parameter in &parameters {
            let name = &parameter.name;
            let Some(tensor) = self.tensors.get(name) else {
                return fail(name, "missing".into());
            };
            if tensor.dims() != parameter.shape {
                let (expected, got) = (&parameter.shape, tensor.dims());
                let message = format!("{CONFIG} expects shape {expected:?}, got {got:?}");
                return fail(name, message);
            }
            if tensor.dtype() != DType::F32 {
                return fail(name, format!("expected f32, got {:?}", tensor.dtype()));
            }
            let values = tensor
                .flatten_all()
                .and_then(|t| t.to_vec1::<f32>())
                .map_err(|error| Error::Model(error.into()))?;
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return fail(name, format!("expected finite values, got {value}"));
            }
            if parameter.kind == ParameterKind::RunningVar
                && let Some(value) = values.iter().find(|value| **value < 0.0)
            {
                return fail(
                    name,
                    format!("expected variances of at least 0, got {value}"),
                );
            }
        }
        // Whoever loads the file strictly stumbles over what does not belong in it.
        let known: HashSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        for (name, tensor) in &self.tensors {
            let norm = name.strip_suffix(".num_batches_tracked").map(|norm| {
                let layer = architecture.layers.iter().find(|layer| layer.name == norm);
                layer.is_some_and(|layer| matches!(layer.kind, LayerKind::Norm(_)))
            });
            match norm {
                Some(true) if tensor.rank() == 0 && tensor.dtype() == DType::I64 => {}
                Some(true) => {
                    let (dtype, shape) = (tensor.dtype(), tensor.dims());
                    return fail(name, format!("expected one i64, got {dtype:?} {shape:?}"));
                }
                _ if known.contains(name.as_str()) => {}
                _ => return fail(name, format!("{CONFIG} has no such tensor")),
            }
        }
        Ok(())
    }
}

/// Checks a description and returns the number of elements of all its tensors.
fn check(config: &Config, path: &Path) -> Result<u64> {
    let fail = |message: String| Err(Error::content(path, message));
    if config.model_type != "dcff" {
        return fail(format!(
            "model_type: expected 'dcff', got '{}'",
            config.model_type
        ));
    }
    let architecture = &config.architecture;
    let shapes = architecture
        .shapes()
        .map_err(|error| Error::content(path, format!("architecture: {error}")))?;
    let list = parameters(architecture, architecture)
        .map_err(|error| Error::content(path, format!("architecture: {error}")))?;
    let mut count = 0u64;
    for parameter in &list {
        let elements = parameter
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        match elements.and_then(|n| count.checked_add(n)) {
            Some(sum) if sum <= MAX_PARAMETERS => count = sum,
            _ => {
                return fail(format!(
                    "{}: expected at most {MAX_PARAMETERS} parameters in all",
                    parameter.name
                ));
            }
        }
    }
    let cfg = &config.pretrained_cfg;
    if cfg.input_size != architecture.input {
        return fail(format!(
            "pretrained_cfg.input_size: expected {:?} as in the architecture, got {:?}",
            architecture.input, cfg.input_size
        ));
    }
    if cfg.num_classes != shapes.classes() || cfg.label_names.len() != shapes.classes() {
        let (labels, classes) = (cfg.label_names.len(), shapes.classes());
        return fail(format!(
            "pretrained_cfg: expected {classes} classes and labels, got {} and {labels}",
            cfg.num_classes
        ));
    }
    let channels = architecture.input[0];
    let sound =
        cfg.mean.iter().all(|m| m.is_finite()) && cfg.std.iter().all(|s| s.is_finite() && *s > 0.0);
    if cfg.mean.len() != channels || cfg.std.len() != channels || !sound {
        return fail(format!(
            "pretrained_cfg: expected {channels} finite means and positive deviations, got {:?} and {:?}",
            cfg.mean, cfg.std
        ));
    }
    Ok(count)
}

/// Writes the folder `path` with `files` whole or not at all, replacing an older one.
pub(crate) fn write(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    Ok(dcff_file::write_folder(path, |folder| {
        files
            .iter()
            .try_for_each(|(name, bytes)| dcff_file::write(&folder.join(name), bytes))
    })?)
}

#[cfg(test)]
mod tests {
    use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Module, ModuleT, batch_norm, conv2d};
    use dcff_models::{Mode, VggStage, vgg};

    use super::*;

    #[test]
    fn candles_own_layers_give_the_same_logits() -> anyhow::Result<()> {
        use VggStage::{Conv as C, MaxPool as M};
        let device = Device::Cpu;
        let architecture = vgg("small", &[C(5), M, C(7), M, M, M, M]);
        let network = Network::new(&architecture, &architecture, 3, &device)?;
        let preprocessing = Preprocessing {
            input_size: architecture.input,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            interpolation: "bilinear".into(),
            crop_pct: 1.0,
            num_classes: 10,
            label_names: (0..10).map(|class| class.to_string()).collect(),
        };
        let artefact = Artefact::new(&network, &Views::dense(), preprocessing, BTreeMap::new())?;
        let images = Tensor::arange(0f32, (3 * 3 * 32 * 32) as f32, &device)?
            .sin()?
            .reshape((3, 3, 32, 32))?;
        let (expected, _) = network.forward(&images, &Views::dense(), Mode::Eval)?;

        let vb = artefact.var_builder(&device);
        let padded = Conv2dConfig {
            padding: 1,
            ..Default::default()
        };
        let block = |index: usize, c_in, c_out| -> candle_core::Result<(Conv2d, BatchNorm)> {
            let features = vb.pp("features");
            Ok((
                conv2d(c_in, c_out, 3, padded, features.pp(index))?,
                batch_norm(c_out, 1e-5, features.pp(index + 1))?,
            ))
        };
        let pooled = |x: Tensor, (conv, norm): (Conv2d, BatchNorm)| {
            norm.forward_t(&conv.forward(&x)?, false)?
                .relu()?
                .max_pool2d(2)
        };
        let x = pooled(images, block(0, 3, 5)?)?;
        let mut x = pooled(x, block(4, 5, 7)?)?;
        for _ in 0..3 {
            x = x.max_pool2d(2)?;
        }
        let logits = candle_nn::linear(7, 10, vb.pp("classifier"))?.forward(&x.flatten_from(1)?)?;
        let off = (logits - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 1e-5, "{off}");
        Ok(())
    }
}
