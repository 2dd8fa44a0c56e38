//! One layer's step at the start of an epoch: filters in, kept ids and coefficients out.

use std::collections::BTreeMap;

use candle_core::Tensor;
use dcff_criteria::{Criterion, LayerEvidence, NonFinite};
use serde::{Deserialize, Serialize};

use crate::rank::rank_correlation;
use crate::{Coefficients, Error, KeepMode, Result, select_top};

/// What a pass over one layer gives.
#[derive(Clone, Debug)]
pub struct LayerPass {
    /// The scores used, one per filter: this epoch's, or the last finite ones if they were kept.
    pub scores: Vec<f64>,
    /// Kept ids and the rows that make their kernels.
    pub coefficients: Coefficients,
    /// What happened, for the log.
    pub diagnostics: Diagnostics,
}

/// How a pass over one layer went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Mean entropy of the coefficients' rows, in nats: 0 means that fusion has become selection.
    pub entropy: f64,
    /// The share of the kept filters that the pass before kept too; `None` at a layer's first pass.
    pub overlap: Option<f64>,
    /// Spearman's rank correlation of the scores with those of the pass before; `None` at a layer's first pass, and where
    /// all scores of either are equal.
    pub rank_correlation: Option<f64>,
    /// Whether this epoch's scores were not finite, or not asked for, and earlier ones were used.
    pub kept_last_scores: bool,
}

/// What a later pass needs of the earlier ones; part of a checkpoint.
///
/// Scores are written as the bits of their `f64`, so that every format gives back the same numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    layers: BTreeMap<String, LayerMemory>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LayerMemory {
    #[serde(with = "bits")]
    scores: Vec<f64>,
    ids: Vec<usize>,
}

impl Memory {
    /// The last finite scores of a layer, if it was passed.
    pub fn scores(&self, layer: &str) -> Option<&[f64]> {
        self.layers
            .get(layer)
            .map(|memory| memory.scores.as_slice())
    }

    /// The filters that the last pass kept, in the places they have, if there was one.
    pub fn ids(&self, layer: &str) -> Option<&[usize]> {
        self.layers.get(layer).map(|memory| memory.ids.as_slice())
    }
}

/// Scores the filters of a layer, keeps the best and computes their coefficients.
#[derive(Clone, Debug)]
pub struct Fuser {
    criterion: &'static dyn Criterion,
    keep: KeepMode,
    seed: u64,
    memory: Memory,
}

impl Fuser {
    /// A fuser without memory; `seed` is for criteria that draw.
    pub fn new(criterion: &'static dyn Criterion, keep: KeepMode, seed: u64) -> Self {
        Self {
            criterion,
            keep,
            seed,
            memory: Memory::default(),
        }
    }

    /// The same fuser with the memory of an interrupted run.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// What to put into a checkpoint.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The criterion that scores.
    pub fn criterion(&self) -> &'static dyn Criterion {
        self.criterion
    }

    /// What kept filters are made of.
    pub fn keep(&self) -> KeepMode {
        self.keep
    }

    /// One pass over the layer called `layer` with `filters` `[C_out, C_in, K_h, K_w]`, of which `kept` stay, at
    /// `temperature`; the coefficients are on the filters' device.
    ///
    /// # Errors
    /// If the criterion fails, returns another number of scores, or returns scores that are not finite and either refuses
    /// that or has no earlier scores of this layer; if `kept` is 0 or above `C_out`.
    /// The memory is then unchanged.
    pub fn pass(
        &mut self,
        layer: &str,
        filters: &Tensor,
        kept: usize,
        temperature: f64,
    ) -> Result<LayerPass> {
        self.pass_over(&self.evidence(layer, filters, temperature)?, kept)
    }

    /// Evidence about the layer called `layer` as [`Fuser::pass`] gathers it: filters, temperature and seed. Criteria that
    /// read more need it added.
    ///
    /// # Errors
    /// Those of [`LayerEvidence::new`].
    pub fn evidence<'a>(
        &self,
        layer: &'a str,
        filters: &'a Tensor,
        temperature: f64,
    ) -> Result<LayerEvidence<'a>> {
        Ok(LayerEvidence::new(layer, filters, temperature)?.with_seed(self.seed))
    }

    /// As [`Fuser::pass`], with the evidence given.
    ///
    /// A filter that the layer's last pass kept keeps its place among the kept ones: batch norm's parameters and the
    /// next layer's weights for its channel belong to the place, not to the filter. The paper's program never needs
    /// that, since its selection does not change after the first epoch.
    ///
    /// # Errors
    /// Those of [`Fuser::pass`].
    pub fn pass_over(&mut self, evidence: &LayerEvidence<'_>, kept: usize) -> Result<LayerPass> {
        let (scores, kept_last_scores) = self.scores(evidence)?;
        let name = self.criterion.name();
        let ids = select_top(
            evidence.name(),
            name,
            &scores,
            evidence.filter_count(),
            kept,
        )?;
        let ids = match self.memory.ids(evidence.name()) {
            Some(last) => in_their_places(&ids, last),
            None => ids,
        };
        self.finish(evidence, ids, scores, kept_last_scores)
    }

    /// A pass that neither scores nor selects: the filters of the layer's last pass stay, and their coefficients follow the
    /// weights and the temperature. `None` when there was no pass yet.
    ///
    /// # Errors
    /// If the filters cannot be read.
    pub fn pass_again(&mut self, evidence: &LayerEvidence<'_>) -> Result<Option<LayerPass>> {
        let Some(memory) = self.memory.layers.get(evidence.name()) else {
            return Ok(None);
        };
        let (ids, scores) = (memory.ids.clone(), memory.scores.clone());
        self.finish(evidence, ids, scores, true).map(Some)
    }

    fn finish(
        &mut self,
        evidence: &LayerEvidence<'_>,
        ids: Vec<usize>,
        scores: Vec<f64>,
        kept_last_scores: bool,
    ) -> Result<LayerPass> {
        let (layer, device) = (evidence.name(), evidence.filters().device());
        let coefficients = match self.keep {
            KeepMode::Fuse => Coefficients::fuse(ids, evidence.similarity()?, device)?,
            KeepMode::Select => Coefficients::select(ids, evidence.filter_count(), device)?,
        };
        let diagnostics = Diagnostics {
            entropy: coefficients.mean_entropy()?,
            overlap: self
                .memory
                .ids(layer)
                .map(|last| overlap(&coefficients.ids, last)),
            rank_correlation: self
                .memory
                .scores(layer)
                .and_then(|last| rank_correlation(&scores, last)),
            kept_last_scores,
        };
        let memory = LayerMemory {
            scores: scores.clone(),
            ids: coefficients.ids.clone(),
        };
        self.memory.layers.insert(layer.to_owned(), memory);
        Ok(LayerPass {
            scores,
            coefficients,
            diagnostics,
        })
    }

    fn scores(&self, evidence: &LayerEvidence<'_>) -> Result<(Vec<f64>, bool)> {
        let layer = evidence.name();
        let scores = self.criterion.score(evidence)?;
        let Some(filter) = scores.iter().position(|score| !score.is_finite()) else {
            return Ok((scores, false));
        };
        let keeps_last = self.criterion.non_finite() == NonFinite::KeepLast;
        match self.memory.scores(layer) {
            Some(last) if keeps_last => Ok((last.to_vec(), true)),
            _ => Err(Error::NonFiniteScore {
                layer: layer.to_owned(),
                criterion: self.criterion.name().to_owned(),
                filter,
                keeps_last,
            }),
        }
    }
}

/// `ids` (ascending) with those that are in `last` where they are there, and the others, ascending, in the places left.
fn in_their_places(ids: &[usize], last: &[usize]) -> Vec<usize> {
    if ids.len() != last.len() {
        return ids.to_vec();
    }
    let stays = |id: &usize| ids.binary_search(id).is_ok();
    let mut new = ids.iter().filter(|id| !last.contains(id));
    last.iter()
        .map(|id| match stays(id) {
            true => *id,
            // As many come as go.
            false => new.next().copied().unwrap_or(*id),
        })
        .collect()
}

/// The share of `ids` that is in `last` as well.
fn overlap(ids: &[usize], last: &[usize]) -> f64 {
    let common = ids.iter().filter(|id| last.contains(id)).count();
    common as f64 / ids.len().max(1) as f64
}

/// Scores as the bits of their `f64`.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        scores: &[f64],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bits: Vec<u64> = scores.iter().map(|score| score.to_bits()).collect();
        bits.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<f64>, D::Error> {
        let bits = Vec::<u64>::deserialize(deserializer)?;
        Ok(bits.into_iter().map(f64::from_bits).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use dcff_criteria::{Evidence, by_name};

    use super::*;

    /// Six filters of one weight each, so distances are differences.
    fn filters(weights: [f32; 6]) -> Tensor {
        Tensor::new(&weights, &Device::Cpu)
            .unwrap()
            .reshape((6, 1, 1, 1))
            .unwrap()
    }

    fn fuser(criterion: &str, keep: KeepMode) -> Fuser {
        Fuser::new(by_name(criterion).unwrap(), keep, 0)
    }

    #[test]
    fn selects_by_l1_norm() {
        let filters = filters([1.0, -5.0, 2.0, 0.5, 4.0, -3.0]);
        let pass = fuser("l1-norm", KeepMode::Select)
            .pass("conv1", &filters, 3, 1.0)
            .unwrap();
        assert_eq!(pass.coefficients.ids, [1, 4, 5]);
        assert_eq!(pass.scores, [1.0, 5.0, 2.0, 0.5, 4.0, 3.0]);
        let fused: Vec<f32> = pass
            .coefficients
            .fused(&filters)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(fused, [-5.0, 4.0, -3.0]);
        assert_eq!(
            pass.diagnostics,
            Diagnostics {
                entropy: 0.0,
                overlap: None,
                rank_correlation: None,
                kept_last_scores: false
            }
        );
    }

    #[test]
    fn fuses_towards_the_mean_at_temperature_zero() {
        let filters = filters([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]);
        let pass = fuser("kl", KeepMode::Fuse)
            .pass("conv1", &filters, 2, 0.0)
            .unwrap();
        // Every score is 0, so the lowest ids win, and every kept filter is the mean.
        assert_eq!(pass.coefficients.ids, [0, 1]);
        let fused: Vec<f32> = pass
            .coefficients
            .fused(&filters)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert!(
            fused.iter().all(|weight| (weight - 4.0).abs() < 1e-5),
            "{fused:?}"
        );
        assert!((pass.diagnostics.entropy - 6.0_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn reports_how_much_of_the_kept_set_stays() {
        let mut fuser = fuser("l1-norm", KeepMode::Fuse);
        fuser
            .pass("a", &filters([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), 4, 1.0)
            .unwrap();
        fuser
            .pass("b", &filters([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), 4, 1.0)
            .unwrap();
        let pass = fuser
            .pass("a", &filters([6.0, 5.0, 1.0, 3.0, 4.0, 2.0]), 4, 1.0)
            .unwrap();
        // 4 comes for 2.
        assert_eq!(pass.coefficients.ids, [0, 1, 4, 3]);
        assert_eq!(pass.diagnostics.overlap, Some(0.75));
        // Ranks 6 5 4 3 2 1 and 6 5 1 3 4 2: squared differences 0 0 9 0 4 1, so 1 − 6 · 14 / (6 · 35).
        let correlation = pass.diagnostics.rank_correlation.unwrap();
        assert!((correlation - 0.6).abs() < 1e-12, "{correlation}");
    }

    #[test]
    fn a_filter_that_stays_keeps_its_place() {
        let mut fuser = fuser("l1-norm", KeepMode::Select);
        let mut kept = |weights: [f32; 6]| {
            let pass = fuser.pass("a", &filters(weights), 3, 1.0).unwrap();
            pass.coefficients.ids
        };
        assert_eq!(kept([1.0, 2.0, 6.0, 5.0, 4.0, 3.0]), [2, 3, 4]);
        // 0 comes for 2: it takes the place of 2 rather than pushing 3 and 4 on.
        assert_eq!(kept([7.0, 2.0, 1.0, 5.0, 4.0, 3.0]), [0, 3, 4]);
        // 1 and 5 come for 0 and 4, in ascending order into the places left.
        assert_eq!(kept([1.0, 9.0, 1.0, 5.0, 1.0, 8.0]), [1, 3, 5]);
        assert_eq!(kept([9.0, 1.0, 8.0, 5.0, 1.0, 1.0]), [0, 3, 2]);
    }

    #[test]
    fn a_pass_again_keeps_the_filters_and_follows_the_weights() {
        let mut fuser = fuser("l1-norm", KeepMode::Fuse);
        let (first, later) = (
            filters([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
            filters([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        );
        let evidence = LayerEvidence::new("a", &first, 1.0).unwrap();
        assert!(fuser.pass_again(&evidence).unwrap().is_none());
        fuser.pass_over(&evidence, 2).unwrap();
        let evidence = LayerEvidence::new("a", &later, 1e4).unwrap();
        let pass = fuser.pass_again(&evidence).unwrap().unwrap();
        assert_eq!(pass.coefficients.ids, [0, 1]);
        assert_eq!(pass.diagnostics.overlap, Some(1.0));
        assert_eq!(pass.diagnostics.rank_correlation, Some(1.0));
        let fused = pass.coefficients.fused(&later).unwrap();
        let fused: Vec<f32> = fused.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(fused, [1.0, 2.0]);
    }

    #[test]
    fn kl_published_keeps_the_last_finite_scores() {
        let filters = filters([0.0, 1.0, 2.5, 4.0, 7.0, 11.0]);
        let mut fuser = fuser("kl-published", KeepMode::Fuse);
        let first = fuser.pass("conv1", &filters, 3, 1.0).unwrap();
        let second = fuser.pass("conv1", &filters, 3, 1e4).unwrap();
        assert!(!first.diagnostics.kept_last_scores);
        assert!(second.diagnostics.kept_last_scores);
        assert_eq!(second.scores, first.scores);
        assert_eq!(second.coefficients.ids, first.coefficients.ids);
        // The coefficients do follow the temperature.
        assert!(first.diagnostics.entropy > 0.1);
        assert_eq!(second.diagnostics.entropy, 0.0);
    }

    #[test]
    fn kl_published_without_earlier_scores_is_refused() {
        let filters = filters([0.0, 1.0, 2.5, 4.0, 7.0, 11.0]);
        let mut fuser = fuser("kl-published", KeepMode::Fuse);
        fuser.pass("conv2", &filters, 3, 1.0).unwrap();
        assert_eq!(
            fuser
                .pass("conv1", &filters, 3, 1e4)
                .unwrap_err()
                .to_string(),
            "conv1: kl-published returned a non-finite score for filter 0, and there are no earlier scores to keep"
        );
    }

    #[test]
    fn memory_survives_a_checkpoint_to_the_bit() {
        let drawn = filters([0.1, 0.7, -0.3, 0.9, -1.1, 0.2]);
        let mut whole = fuser("kl-published", KeepMode::Fuse);
        whole.pass("conv1", &drawn, 3, 1.3).unwrap();
        let json = serde_json::to_string(whole.memory()).unwrap();
        let memory: Memory = serde_json::from_str(&json).unwrap();
        assert_eq!(&memory, whole.memory());
        let mut resumed = fuser("kl-published", KeepMode::Fuse).with_memory(memory);
        let (whole, resumed) = (
            whole.pass("conv1", &drawn, 3, 1e4).unwrap(),
            resumed.pass("conv1", &drawn, 3, 1e4).unwrap(),
        );
        assert_eq!(whole.scores, resumed.scores);
        assert_eq!(whole.diagnostics, resumed.diagnostics);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused_by_layer_and_filter() {
        let filters = filters([1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0]);
        let mut fused = fuser("l1-norm", KeepMode::Fuse);
        assert_eq!(
            fused
                .pass("features.3", &filters, 2, 1.0)
                .unwrap_err()
                .to_string(),
            "features.3: l1-norm returned a non-finite score for filter 2"
        );
        for criterion in ["kl", "kl-published"] {
            let mut fused = fuser(criterion, KeepMode::Fuse);
            assert_eq!(
                fused
                    .pass("features.3", &filters, 2, 1.0)
                    .unwrap_err()
                    .to_string(),
                "features.3: filter 2 holds a non-finite weight"
            );
        }
    }

    #[test]
    fn a_failed_pass_leaves_the_memory_as_it_was() {
        let mut fuser = fuser("l1-norm", KeepMode::Select);
        let filters = filters([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        fuser.pass("conv1", &filters, 4, 1.0).unwrap();
        let before = fuser.memory().clone();
        assert_eq!(
            fuser
                .pass("conv1", &filters, 0, 1.0)
                .unwrap_err()
                .to_string(),
            "conv1: keeps 0 of 6 filters"
        );
        assert_eq!(fuser.memory(), &before);
    }

    /// Returns one score too few.
    struct Short;

    impl Criterion for Short {
        fn name(&self) -> &'static str {
            "short"
        }
        fn about(&self) -> &'static str {
            "one score too few"
        }
        fn source(&self) -> &'static str {
            "a counterexample"
        }
        fn evidence(&self) -> Evidence {
            Evidence::None
        }
        fn score(&self, layer: &LayerEvidence<'_>) -> dcff_criteria::Result<Vec<f64>> {
            Ok(vec![0.0; layer.filter_count() - 1])
        }
    }

    #[test]
    fn a_wrong_number_of_scores_is_refused() {
        let mut fuser = Fuser::new(&Short, KeepMode::Select, 0);
        assert_eq!(
            fuser
                .pass("conv1", &filters([0.0; 6]), 2, 1.0)
                .unwrap_err()
                .to_string(),
            "conv1: short returned 5 scores for 6 filters"
        );
    }
}
