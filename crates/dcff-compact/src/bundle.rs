//! One network and slices of it that are networks, too: weights once, and for each slice widths, cost, score and statistics.
//!
//! A bundle is the artefact of the whole network with two files more:
//!
//! - `slices.json`: the slices, by rising cost;
//! - `statistics.safetensors`: batch norm's statistics of each, `NUMBER/LAYER.running_mean` and `NUMBER/LAYER.running_var`.
//!
//! A slice reads the leading part of every weight, so that changing over to another one moves no number ([`Switchable`]). Statistics
//! belong to one slice alone: those of another network, the whole one included, make it useless.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use dcff_models::{Mode, Network, Program, Views, Weights, parameters};
use serde::{Deserialize, Serialize};

use crate::artefact::{self, MAX_CONFIG_BYTES, MAX_HEADER_BYTES};
use crate::{Artefact, Error, Result, weights};

/// The name of the list's file.
pub const SLICES: &str = "slices.json";
/// The name of the statistics' file.
pub const STATISTICS: &str = "statistics.safetensors";
/// More slices than anyone switches between.
const MAX_SLICES: usize = 10_000;

/// A network whose weights are the leading part of a wider one's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// What asks for it again, in the words of the method that trained it.
    pub config: String,
    /// Channels, height and width of its images.
    pub input: [usize; 3],
    /// The width of every channel space.
    pub widths: Vec<usize>,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// The multiply-accumulates that it was remembered for: its own, or a round number near them.
    pub target: u64,
    /// How well it did; more is better. None where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl Slice {
    /// The program of the slice over `weights`, which are the whole network's.
    ///
    /// # Errors
    /// When it is no slice of that network.
    pub fn program(&self, weights: &Weights) -> Result<Program> {
        let narrow = weights.compact().narrowed(&self.widths)?;
        Ok(Program::new(&narrow.with_input(self.input), weights)?)
    }

    /// The slice of `whole` as a network with tensors of its own; its statistics are still those of `whole`.
    ///
    /// # Errors
    /// When it is no slice of that network.
    pub fn cut(&self, whole: &Network) -> Result<Network> {
        let program = self.program(whole.weights())?;
        let mut plain = program.extract(whole.weights(), &Views::dense())?;
        plain.set_convolution(whole.convolution());
        Ok(plain)
    }

    /// The best of `slices` that costs at most `macs`: of the largest target that has one, the one with the best score.
    ///
    /// # Errors
    /// The cost of the smallest one, where that is too much.
    pub fn within(slices: &[Self], macs: u64) -> Result<&Self, String> {
        let fits = slices.iter().filter(|slice| slice.macs <= macs);
        let score = |slice: &Self| slice.score.unwrap_or(f64::NEG_INFINITY);
        let best = fits.max_by(|a, b| {
            let by_score = score(a).total_cmp(&score(b));
            (a.target.cmp(&b.target))
                .then(by_score)
                .then(b.macs.cmp(&a.macs))
        });
        best.ok_or_else(|| too_little(slices, macs))
    }
}

/// Statistics of batch norm by the names of their tensors.
pub type Statistics = BTreeMap<String, Tensor>;

/// The whole network, its slices, and the statistics of each.
#[derive(Clone, Debug)]
pub struct Bundle {
    whole: Artefact,
    slices: Vec<Slice>,
    statistics: Vec<Statistics>,
}

impl Bundle {
    /// A bundle of `slices` of `whole`, each with the network that was cut and has statistics of its own.
    ///
    /// # Errors
    /// When a slice is none of the network's.
    pub fn new(whole: Artefact, mut slices: Vec<(Slice, Network)>) -> Result<Self> {
        slices.sort_by(|(a, _), (b, _)| (a.macs, &a.config).cmp(&(b.macs, &b.config)));
        let mut bundle = Self {
            whole,
            slices: Vec::new(),
            statistics: Vec::new(),
        };
        for (slice, network) in slices {
            let listed = network.parameters().iter().enumerate();
            let own = listed.filter(|(_, p)| !p.kind.is_trained());
            let own = own.map(|(i, p)| Ok((p.name.clone(), network.tensor(i).copy()?)));
            let own: candle_core::Result<Statistics> = own.collect();
            bundle
                .statistics
                .push(own.map_err(dcff_models::Error::from)?);
            bundle.slices.push(slice);
        }
        bundle.check(Path::new(SLICES), Path::new(STATISTICS))?;
        Ok(bundle)
    }

    /// The slices, by rising cost.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// The whole network.
    pub fn whole(&self) -> &Artefact {
        &self.whole
    }

    /// Whether the folder `path` is a bundle.
    pub fn is_at(path: &Path) -> bool {
        path.join(SLICES).exists()
    }

    /// Writes the folder `path` whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`] with the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut files = self.whole.to_files()?.to_vec();
        let text = serde_json::to_string_pretty(&self.slices)
            .map_err(|error| Error::content(Path::new(SLICES), error.to_string()))?;
        files.push((SLICES, format!("{text}\n").into_bytes()));
        let named = self.statistics.iter().enumerate();
        let named = named.flat_map(|(number, of)| {
            of.iter()
                .map(move |(name, tensor)| (format!("{number}/{name}"), tensor.clone()))
        });
        let bytes = weights::tensors_to_bytes(&named.collect(), &BTreeMap::new())?;
        files.push((STATISTICS, bytes));
        artefact::write(path, &files)
    }

    /// Reads the folder `path`. Nothing in it is trusted.
    ///
    /// # Errors
    /// As [`Artefact::load`]; when a slice is none of the network's, or its statistics are missing or unsound.
    pub fn load(path: &Path) -> Result<Self> {
        let whole = Artefact::load(path)?;
        let list = path.join(SLICES);
        let text = dcff_file::read(&list, MAX_CONFIG_BYTES)?;
        let slices: Vec<Slice> = serde_json::from_slice(&text)
            .map_err(|error| Error::content(&list, error.to_string()))?;
        if slices.len() > MAX_SLICES {
            let message = format!("expected at most {MAX_SLICES} slices, got {}", slices.len());
            return Err(Error::content(&list, message));
        }
        let architecture = &whole.config.architecture;
        let channels: u64 = parameters(architecture, architecture)?
            .iter()
            .filter(|parameter| !parameter.kind.is_trained())
            .map(|parameter| parameter.shape.iter().product::<usize>() as u64)
            .sum();
        let file = path.join(STATISTICS);
        let most = 4 * channels * slices.len() as u64 + MAX_HEADER_BYTES;
        let (tensors, _) = weights::read_tensors(&file, most)?;
        let mut statistics = vec![Statistics::new(); slices.len()];
        for (key, tensor) in tensors {
            let place = key.split_once('/').and_then(|(number, name)| {
                Some((statistics.get_mut(number.parse::<usize>().ok()?)?, name))
            });
            let Some((of, name)) = place else {
                return Err(Error::content(
                    &file,
                    format!("{key}: {SLICES} has no such slice"),
                ));
            };
            of.insert(name.to_owned(), tensor);
        }
        let bundle = Self {
            whole,
            slices,
            statistics,
        };
        bundle.check(&list, &file)?;
        Ok(bundle)
    }

    /// Checks that every slice is one, and that its statistics are there and sound.
    fn check(&self, list: &Path, file: &Path) -> Result<()> {
        if self.slices.is_empty() {
            return Err(Error::content(list, "expected a slice, got none"));
        }
        let (mut before, whole) = (0, self.whole.network(&Device::Cpu)?);
        for (number, slice) in self.slices.iter().enumerate() {
            let fail = |message: String| Error::content(list, format!("slice {number}: {message}"));
            if slice.macs < before || slice.score.is_some_and(|score| !score.is_finite()) {
                return Err(fail("expected rising costs and finite scores".to_owned()));
            }
            before = slice.macs;
            self.cut(number, &whole).map_err(|error| match error {
                // Weights are sound by now: what is wrong with tensors are the statistics.
                Error::Content { message, .. } => {
                    Error::content(file, format!("slice {number}: {message}"))
                }
                other => fail(other.to_string()),
            })?;
        }
        Ok(())
    }

    /// The costliest slice of at most `macs` multiply-accumulates: its number in [`Bundle::slices`].
    ///
    /// # Errors
    /// The cost of the smallest one, where that is too much.
    pub fn within(&self, macs: u64) -> Result<usize, String> {
        // By rising cost.
        let fits = self.slices.partition_point(|slice| slice.macs <= macs);
        fits.checked_sub(1)
            .ok_or_else(|| too_little(&self.slices, macs))
    }

    /// The slice at `number` of [`Bundle::slices`] as a network of its own.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn artefact(&self, number: usize) -> Result<Artefact> {
        self.cut(number, &self.whole.network(&Device::Cpu)?)
    }

    fn cut(&self, number: usize, whole: &Network) -> Result<Artefact> {
        let (slice, own) = (&self.slices[number], &self.statistics[number]);
        let plain = slice.cut(whole)?;
        let mut tensors = plain.state()?;
        for parameter in plain.parameters() {
            if !parameter.kind.is_trained() {
                // Those of the whole network; where the slice has none of its own, that is found out.
                tensors.remove(&parameter.name);
            }
        }
        tensors.extend(own.clone());
        let mut config = self.whole.config.clone();
        config.pretrained_cfg.input_size = slice.input;
        config.architecture = plain.compact().clone();
        let value = serde_json::to_value(slice)
            .map_err(|error| Error::content(Path::new(SLICES), error.to_string()))?;
        config.provenance.insert("slice".to_owned(), value);
        Artefact::from_parts(config, tensors, Path::new(STATISTICS))
    }

    /// All slices on `device`, ready to change over between.
    ///
    /// # Errors
    /// Those of the device.
    pub fn open(&self, device: &Device) -> Result<Switchable> {
        let whole = self.whole.network(device)?;
        let ready = self
            .slices
            .iter()
            .zip(&self.statistics)
            .map(|(slice, own)| {
                let shared = whole.weights().with_statistics(own)?;
                Ok((slice.macs, slice.program(&shared)?, shared))
            });
        let ready: Result<Vec<_>> = ready.collect();
        Ok(Switchable {
            ready: ready?,
            active: 0,
        })
    }
}

/// The slices of a bundle over one set of weights: changing over to another one neither copies a number nor allocates memory.
#[derive(Debug)]
pub struct Switchable {
    /// Cost, program and weights of each: filters and scales are shared, statistics are not.
    ready: Vec<(u64, Program, Weights)>,
    active: usize,
}

impl Switchable {
    /// Changes over to the costliest slice of at most `macs` multiply-accumulates; `false`, and nothing changes, when there is none.
    pub fn switch(&mut self, macs: u64) -> bool {
        // By rising cost.
        let fits = self.ready.partition_point(|(cost, _, _)| *cost <= macs);
        if fits > 0 {
            self.active = fits - 1;
        }
        fits > 0
    }

    /// The number in [`Bundle::slices`] of the slice that computes.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Logits `[N, classes]` of normalised images `[N, C, H, W]` of the size of the slice that computes.
    ///
    /// # Errors
    /// When the images have another size, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (_, program, weights) = &self.ready[self.active];
        let trace = program.forward(weights, &Views::dense(), images, &Mode::Eval.into())?;
        Ok(trace.logits().clone())
    }
}

fn too_little(slices: &[Slice], macs: u64) -> String {
    let least = slices.iter().map(|slice| slice.macs).min();
    format!(
        "expected at least the {} multiply-accumulates of the smallest slice, got {macs}",
        least.unwrap_or(0)
    )
}
