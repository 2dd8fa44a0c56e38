//! Comparison with criterion vectors recorded from another program.
//!
//! A recording is one element of the list `criterion` in an `index.json`, with a safetensors file beside it: the filters
//! of one layer (`weight`), their distances (`dist`), and for some epochs of one or more runs (`E{E}.e{e}.…`) the
//! proxies `P`, the scores used (`score_eff`), the kept ids and the fused filters.
//! Large recordings hold only the first rows of the proxies (`P_slice`) and of the fused filters (`fused_slice`).
//! Every run starts without memory at its first recorded epoch, with the filters unchanged from epoch to epoch.
//!
//! [`compare`] replays each run through [`Fuser`] with `kl-published` and [`TemperatureSchedule::Published`].
//! The tolerances are those of a program that computes in `f32`:
//!
//! | what | tolerance | reason |
//! |---|---|---|
//! | temperature | 1e-12 relative | both sides compute in `f64`; the formula's large terms cancel in short runs |
//! | distance | 1.2e-7 relative | both sides sum in `f64`, in another order: one last place of the `f32` result |
//! | proxy | 3e-7 | exponential, sum and quotient in `f32` there: a few times 6e-8, of numbers up to 1 |
//! | score | 5e-7 | the recorded scores differ by 1e-7 to 2e-7 from the same formula in `f64`; 5e-7 is also the gap below which the recording calls ranks unreliable |
//! | score in `f64` | 1e-7 | that formula itself, where recorded: only our distances and proxies are rounded to `f32` |
//! | fused | 5e-7 of the largest weight | a sum of `C_out` products in `f32`, with coefficients that sum to 1 |
//! | kept ids, finiteness | 0 | ids only where the recording calls the rank reliable |

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use dcff_criteria::{LayerEvidence, by_name};
use serde::Deserialize;

use crate::{Coefficients, Error, Fuser, KeepMode, Result, TemperatureSchedule};

/// One recorded layer.
#[derive(Clone, Debug, Deserialize)]
pub struct Recording {
    /// Its name in messages.
    pub name: String,
    /// The safetensors file, beside the index.
    pub file: String,
    /// Filters to keep.
    pub m: usize,
    /// The recorded epochs, run after run.
    pub records: Vec<Record>,
}

/// One recorded epoch.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Epochs of the run; a change of it starts another run.
    #[serde(rename = "E")]
    pub epochs: usize,
    /// The epoch, from 0.
    #[serde(rename = "e")]
    pub epoch: usize,
    /// The temperature.
    #[serde(rename = "T")]
    pub temperature: f64,
    /// Whether the scores of this very epoch were all finite.
    pub score_raw_finite: bool,
    /// Whether the gap at the cut is wide enough for the ids to be comparable, and not only the scores.
    pub rank_reliable: bool,
}

/// The largest deviation of one quantity over a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// Which quantity, and in which unit it is compared.
    pub what: &'static str,
    /// How many numbers were compared.
    pub compared: usize,
    /// The largest deviation; NaN if a number is NaN on one side only.
    pub largest: f64,
    /// The largest deviation allowed.
    pub tolerance: f64,
}

impl Deviation {
    fn new(what: &'static str, tolerance: f64) -> Self {
        Self {
            what,
            compared: 0,
            largest: 0.0,
            tolerance,
        }
    }

    /// Whether the deviation is allowed; false if nothing was compared.
    pub fn within(&self) -> bool {
        self.compared > 0 && self.largest <= self.tolerance
    }

    fn add(&mut self, deviation: f64) {
        self.compared += 1;
        // `f64::max` would drop a NaN; here it stays, as nothing is above it.
        if deviation.is_nan() || deviation > self.largest {
            self.largest = deviation;
        }
    }

    /// Adds the deviation of every expected number, in units of `unit`.
    fn add_all(&mut self, ours: &[f32], expected: &[f64], unit: f64) {
        for (&ours, expected) in ours.iter().zip(expected) {
            self.add((f64::from(ours) - expected).abs() / unit);
        }
    }
}

/// Replays a recording whose file is in `folder`.
///
/// # Errors
/// If the file cannot be read, lacks a tensor, or holds one that does not fit the others; or if a pass fails.
pub fn compare(folder: &Path, recording: &Recording) -> Result<Vec<Deviation>> {
    let file = File::open(folder, recording)?;
    let filters = file.tensor("weight")?.to_dtype(DType::F32)?;
    let largest_weight = f64::from(filters.abs()?.max_all()?.to_scalar::<f32>()?);

    let mut temperatures = Deviation::new("temperature (relative)", 1e-12);
    let mut distances = Deviation::new("distance (relative)", 1.2e-7);
    let mut proxies = Deviation::new("proxy", 3e-7);
    let mut scores = Deviation::new("score", 5e-7);
    let mut scores_in_f64 = Deviation::new("score in f64", 1e-7);
    let mut finiteness = Deviation::new("finiteness of the scores", 0.0);
    let mut kept = Deviation::new("kept ids that differ", 0.0);
    let mut fused = Deviation::new("fused filters (of the largest weight)", 5e-7);

    let mut fuser = Fuser::new(by_name("kl-published")?, KeepMode::Fuse, 0);
    let fresh = fuser.clone();
    let mut run = None;
    for record in &recording.records {
        if run.replace(record.epochs) != Some(record.epochs) {
            fuser = fresh.clone();
        }
        let at = |what: &str| format!("E{}.e{}.{what}", record.epochs, record.epoch);
        let temperature = TemperatureSchedule::Published.at(record.epoch, record.epochs);
        temperatures.add((temperature / record.temperature - 1.0).abs());

        let evidence = LayerEvidence::new(&recording.name, &filters, temperature)?;
        let similarity = evidence.similarity()?;
        if let Some(expected) = file.optional("dist")? {
            file.fits("dist", expected.len() <= similarity.distances().len())?;
            for (&ours, expected) in similarity.distances().iter().zip(expected) {
                let size = if expected == 0.0 { 1.0 } else { expected };
                distances.add((f64::from(ours) - expected).abs() / size);
            }
        }
        let expected = file.first_rows(&at("P"), similarity.proxies().len())?;
        proxies.add_all(similarity.proxies(), &expected, 1.0);

        let pass = fuser.pass(&recording.name, &filters, recording.m, temperature)?;
        let same = pass.diagnostics.kept_last_scores != record.score_raw_finite;
        finiteness.add(f64::from(u8::from(!same)));
        let expected = file.values(&at("score_eff"))?;
        file.fits(&at("score_eff"), expected.len() == pass.scores.len())?;
        for (ours, expected) in pass.scores.iter().zip(expected) {
            scores.add((ours - expected).abs());
        }
        if let Some(expected) = file.optional(&at("score64_ours"))? {
            file.fits(&at("score64_ours"), expected.len() == pass.scores.len())?;
            for (ours, expected) in pass.scores.iter().zip(expected) {
                scores_in_f64.add((ours - expected).abs());
            }
        }

        let ids: Vec<usize> = file
            .values(&at("ids_unsorted"))?
            .into_iter()
            .map(|id| id as usize)
            .collect();
        file.fits(
            &at("ids_unsorted"),
            ids.len() == recording.m && ids.iter().all(|&id| id < similarity.filters()),
        )?;
        if record.rank_reliable {
            let expected: BTreeSet<_> = ids.iter().copied().collect();
            let ours = pass.coefficients.ids.iter().copied().collect();
            kept.add(expected.symmetric_difference(&ours).count() as f64);
        }
        // The rows in the recorded order, which is arbitrary.
        let ours = Coefficients::fuse(ids, similarity, &Device::Cpu)?.fused(&filters)?;
        let ours: Vec<f32> = ours.flatten_all()?.to_vec1()?;
        let expected = file.first_rows(&at("fused"), ours.len())?;
        fused.add_all(&ours, &expected, largest_weight);
    }
    let mut all = vec![temperatures, proxies, scores, finiteness, fused];
    // These may be missing from a recording.
    all.extend(
        [distances, scores_in_f64, kept]
            .into_iter()
            .filter(|deviation| deviation.compared > 0),
    );
    Ok(all)
}

/// The tensors of a recording, with errors that name the file.
struct File {
    name: String,
    tensors: HashMap<String, Tensor>,
}

impl File {
    fn open(folder: &Path, recording: &Recording) -> Result<Self> {
        let path = folder.join(&recording.file);
        let error = |message| Error::Recorded {
            file: path.display().to_string(),
            message,
        };
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|cause| error(cause.to_string()))?;
        Ok(Self {
            name: path.display().to_string(),
            tensors,
        })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.get(name);
        found.ok_or_else(|| self.error(format!("expected a tensor '{name}'")))
    }

    fn values(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self
            .tensor(name)?
            .to_dtype(DType::F64)?
            .flatten_all()?
            .to_vec1()?)
    }

    fn optional(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.tensors
            .contains_key(name)
            .then(|| self.values(name))
            .transpose()
    }

    /// The values of `name`, or if there are none of `name` with `_slice`, its first rows: at most `most` numbers.
    fn first_rows(&self, name: &str, most: usize) -> Result<Vec<f64>> {
        let values = match self.optional(name)? {
            Some(values) => values,
            None => self.values(&format!("{name}_slice"))?,
        };
        self.fits(name, values.len() <= most)?;
        Ok(values)
    }

    fn fits(&self, name: &str, fits: bool) -> Result<()> {
        if fits {
            Ok(())
        } else {
            Err(self.error(format!("tensor '{name}' does not fit the filters")))
        }
    }

    fn error(&self, message: String) -> Error {
        Error::Recorded {
            file: self.name.clone(),
            message,
        }
    }
}
