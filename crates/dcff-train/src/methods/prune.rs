//! Classical pruning: train a dense network, score its filters, remove the lowest, train on.
//!
//! ```text
//! dense stage:     all filters, loss + λ · Σ |γ| where the criterion wants it
//! pruning:         s[c] = Σ over the convolutions that write channel c of  score / rms(scores of the convolution)
//! fine-tuning:     the narrow network from the kept weights, a new optimiser, a lower learning rate
//! ```
//!
//! Han et al., *Learning both Weights and Connections for Efficient Neural Networks*, NeurIPS 2015,
//! <https://arxiv.org/abs/1506.02626>; of whole filters, Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017,
//! <https://arxiv.org/abs/1608.08710>.
//!
//! In several steps the widths fall evenly over equally long parts of the fine-tuning stage, and what is left is scored
//! anew at each; the learning rate falls once over the whole stage.
//! Which channels go together is said by [`ChannelGroup`]; convolutions that are not scored follow their space.
//! With a budget for all layers together each group's scores are divided by their root mean square once more, and one
//! threshold decides ([`Budget`]).

use std::collections::BTreeMap;

use dcff_criteria::{Criterion, LayerEvidence, Similarity, by_name};
use dcff_flops::{Budget, even_keys};
use dcff_fusion::{Coefficients, KeepMode, Rates, TemperatureSchedule, select_top};
use dcff_models::{Architecture, ChannelGroup, ParameterKind, View, Views};
use dcff_nn::LossValue;
use dcff_run::{DenseFrom, Description, LayerSelection, MethodConfig, Recipe};
use serde::{Deserialize, Serialize};

use super::dcff::evidence_images;
use super::widths::width_keys;
use super::widths::{self, narrowed};
use crate::collect::Collected;
use crate::entry::{Context, Entry, Given};
use crate::error::{Error, Result};
use crate::method::{Decision, EpochStart, Filters, Method, Plan, Saved};
use crate::stage::{DENSE, FINETUNE, Stage};
use crate::step::Step;

/// The settings of [`Prune`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// The criterion's name.
    pub criterion: String,
    /// What a kept filter is made of.
    pub keep: KeepMode,
    /// The temperature of criteria and keep modes that have one, taken at the epoch of the pruning.
    pub temperature: TemperatureSchedule,
    /// How much of each channel space goes; with a `budget`, only what a uniform rate would leave.
    pub rates: Rates,
    /// Epochs of the dense stage; the rest of the run is fine-tuning.
    pub dense_epochs: usize,
    /// Prunings, spread evenly over the fine-tuning.
    pub steps: usize,
    /// The learning rate of fine-tuning before the schedule.
    pub finetune_learning_rate: f64,
    /// `λ` of the penalty `λ · Σ |γ|` in the dense stage.
    pub scale_penalty: f64,
    /// Training images for criteria that read images.
    #[serde(default = "evidence_images")]
    pub evidence_images: usize,
    /// Widths by one threshold on the scores of all layers, instead of the rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// The run whose dense network is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_from: Option<DenseFrom>,
}

impl PruneConfig {
    /// The learning rate of fine-tuning as a share of the recipe's, unless said otherwise: what HRank and CHIP use.
    pub const FINETUNE_SHARE: f64 = 0.1;

    /// One-shot pruning by `criterion` at `rates` in the middle of a run under `recipe`, with every other setting at its
    /// default.
    ///
    /// # Errors
    /// When the criterion is unknown.
    pub fn new(criterion: &str, rates: Rates, recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            scale_penalty: by_name(criterion)?.scale_penalty(),
            criterion: criterion.to_owned(),
            keep: KeepMode::Select,
            temperature: TemperatureSchedule::Stretched {
                slope: TemperatureSchedule::DEFAULT_SLOPE,
            },
            rates,
            dense_epochs: recipe.epochs / 2,
            steps: 1,
            finetune_learning_rate: Self::FINETUNE_SHARE * recipe.learning_rate,
            evidence_images: evidence_images(),
            budget: None,
            dense_from: None,
        })
    }

    /// Checks the settings' ranges for a run of `epochs` epochs, whose criterion reads images or not.
    fn validate(&self, epochs: usize, reads_images: bool) -> Result<()> {
        let check = |holds: bool, field: &str, message: String| match holds {
            true => Ok(()),
            false => Err(Error::setting(format!("method.{field}"), message)),
        };
        check(
            self.dense_epochs >= 1 && self.dense_epochs < epochs,
            "dense_epochs",
            format!(
                "expected 1 to {}, so that epochs are left to fine-tune, got {}",
                epochs.saturating_sub(1),
                self.dense_epochs
            ),
        )?;
        let left = epochs - self.dense_epochs;
        check(
            (1..=left).contains(&self.steps),
            "steps",
            format!(
                "expected 1 to {left}, the epochs of fine-tuning, got {}",
                self.steps
            ),
        )?;
        for (field, value) in [
            ("finetune_learning_rate", self.finetune_learning_rate),
            ("scale_penalty", self.scale_penalty),
        ] {
            check(
                (0.0..=1e6).contains(&value),
                field,
                format!("expected 0 to 1000000, got {value}"),
            )?;
        }
        check(
            self.evidence_images >= 1 || !reads_images,
            "evidence_images",
            "expected at least 1, got 0".to_owned(),
        )?;
        match &self.budget {
            Some(budget) => Ok(budget.validate()?),
            None => Ok(()),
        }
    }

    /// The step that prunes at the start of `epoch`, counted from 0.
    fn step_at(&self, epoch: usize, epochs: usize) -> Option<usize> {
        let left = epochs - self.dense_epochs;
        (0..self.steps).find(|k| self.dense_epochs + k * left / self.steps == epoch)
    }
}

/// Prunes after a dense stage.
pub struct Prune {
    config: PruneConfig,
    criterion: &'static dyn Criterion,
    seed: u64,
    /// Whether the dense stage is under way.
    dense: bool,
}

impl Prune {
    /// The method with `config`; criteria that draw lots do so by the context's seed.
    ///
    /// # Errors
    /// When the criterion is unknown.
    pub fn new(config: PruneConfig, context: &Context) -> Result<Self> {
        Ok(Self {
            criterion: context.criterion(&config.criterion)?,
            config,
            seed: context.seed,
            dense: true,
        })
    }

    /// The network that comes out.
    fn compact(&self, full: &Architecture) -> Result<Architecture> {
        let compact = narrowed(full, &self.config.rates)?;
        // Refuses widths that no choice of channels gives before anything is trained.
        full.counts_of(&full.channel_groups()?, &compact.widths())?;
        Ok(compact)
    }

    fn stages(&self, recipe: &Recipe) -> Vec<Stage> {
        let (dense, end) = (self.config.dense_epochs, recipe.epochs);
        let finetune = recipe.for_stage(end - dense, self.config.finetune_learning_rate);
        let last = (0..end)
            .rev()
            .find(|&epoch| self.config.step_at(epoch, end).is_some());
        let last = last.unwrap_or(dense);
        let finetune = Recipe {
            warmup_epochs: 0,
            ..finetune
        };
        let stage = |name, epochs, recipe: &Recipe, compact| Stage {
            name,
            schedule_from: dense,
            epochs,
            recipe: recipe.clone(),
            compact,
            settings: BTreeMap::new(),
        };
        let mut stages = vec![
            Stage {
                schedule_from: 0,
                settings: [("scale_penalty", self.config.scale_penalty)].into(),
                ..stage(
                    DENSE,
                    0..dense,
                    &recipe.for_stage(dense, recipe.learning_rate),
                    false,
                )
            },
            // Epochs before the last pruning are wider than what comes out, and are not chosen from.
            stage(FINETUNE, dense..last, &finetune, false),
            stage(FINETUNE, last..end, &finetune, true),
        ];
        stages.retain(|stage| !stage.epochs.is_empty());
        stages
    }

    /// One pass over all scored convolutions of the network: what is known of each, and its scores.
    fn score<'a>(
        &self,
        start: &EpochStart<'a>,
        collected: &mut Collected,
        temperature: f64,
    ) -> Result<Vec<Scored<'a>>> {
        let network = start.network;
        let mut all = Vec::new();
        for (layer, conv) in network.compact().scored_convs() {
            let weight = format!("{}.weight", layer.name);
            let filters = network
                .get(&weight)
                .ok_or(dcff_models::Error::MissingParameter(weight))?;
            let evidence =
                LayerEvidence::new(&layer.name, filters, temperature)?.with_seed(self.seed);
            let evidence = collected.add_to(evidence, network)?;
            let scores = self.criterion.score(&evidence)?;
            // Refuses a wrong number of scores and those that are not finite.
            let name = self.criterion.name();
            select_top(&layer.name, name, &scores, evidence.filter_count(), 1)?;
            let spaces = &network.compact().spaces;
            let similarity = match self.config.keep {
                KeepMode::Fuse => Some(evidence.similarity()?.clone()),
                KeepMode::Select => None,
            };
            all.push(Scored {
                layer: &layer.name,
                space: spaces.iter().position(|space| space.name == conv.space),
                scores,
                similarity,
            });
        }
        Ok(all)
    }

    /// How many channels of each group stay after step `step`.
    fn counts(
        &self,
        start: &EpochStart<'_>,
        groups: &[ChannelGroup],
        scores: &[Vec<f64>],
        step: usize,
    ) -> Result<Vec<usize>> {
        let (full, now) = (start.full, start.network.compact());
        let full_groups = full.channel_groups()?;
        let left = self.config.steps - step;
        // From `from` an even share of the way to `to`.
        let towards =
            |from: u64, to: u64| from.saturating_sub(from.saturating_sub(to) / left as u64);
        let Some(budget) = &self.config.budget else {
            let target = full.counts_of(&full_groups, &self.compact(full)?.widths())?;
            let counts = groups.iter().zip(target);
            return Ok(counts
                .map(|(group, target)| towards(group.len() as u64, target as u64) as usize)
                .collect());
        };
        let floors: Vec<usize> = full_groups
            .iter()
            .zip(groups)
            .map(|(full, now)| budget.floor(full.len()).min(now.len()))
            .collect();
        let keys: Vec<Vec<f64>> = groups
            .iter()
            .zip(scores)
            .map(|(group, scores)| keys(group, scores))
            .collect();
        let target = budget.target.of(budget.measure.of(full)?);
        let target = towards(budget.measure.of(now)?, target);
        Ok(budget.allocate(now, groups, &floors, &keys, target)?)
    }

    fn prune(&self, start: &EpochStart<'_>, step: usize) -> Result<Decision> {
        let (network, architecture) = (start.network, start.network.compact());
        let temperature = self.config.temperature.at(start.epoch, start.epochs);
        let mut collected = Collected::new(self.criterion, network, start.views, start.probe)?;
        let scored = self.score(start, &mut collected, temperature)?;
        let groups = architecture.channel_groups()?;
        let scores = group_scores(architecture, &groups, &scored);
        let counts = self.counts(start, &groups, &scores, step)?;
        let name = self.criterion.name();
        let mut chosen = Vec::with_capacity(groups.len());
        for ((group, scores), count) in groups.iter().zip(&scores).zip(counts) {
            let mut ids = Vec::with_capacity(count);
            for (region, kept) in group.parts(count) {
                if kept > 0 {
                    let (first, part) = (region.start, &scores[region.clone()]);
                    let space = &architecture.spaces[group.members[0].0].name;
                    let top = select_top(space, name, part, part.len(), kept)?;
                    ids.extend(top.into_iter().map(|id| first + id));
                }
            }
            chosen.push(ids);
        }
        let kept = architecture.kept_channels(&groups, &chosen);

        let mut views = Views::dense();
        let mut selection = Vec::with_capacity(scored.len());
        for layer in scored {
            let ids = layer
                .space
                .map_or_else(Vec::new, |space| kept[space].clone());
            let mut entropy = 0.0;
            if let Some(similarity) = &layer.similarity {
                let fused = Coefficients::fuse(ids.clone(), similarity, network.device())?;
                entropy = fused.mean_entropy()?;
                views.insert(layer.layer, View::Mix(fused.p));
            }
            selection.push(LayerSelection {
                layer: layer.layer.to_owned(),
                temperature,
                entropy,
                overlap: None,
                rank_correlation: None,
                kept: ids,
                scores: LayerSelection::narrowed(&layer.scores),
            });
        }
        let pruned = network.pruned(&kept, &views)?;
        Ok(Decision {
            diagnostics: BTreeMap::from([("temperature".to_owned(), temperature)]),
            selection,
            network: Some(pruned),
            scoring_macs: collected.macs(),
            ..Decision::default()
        })
    }
}

/// A scored convolution.
struct Scored<'a> {
    layer: &'a str,
    /// The position of its space.
    space: Option<usize>,
    scores: Vec<f64>,
    /// Where kept filters are fused of all.
    similarity: Option<Similarity>,
}

/// The scores divided by their root mean square; all zero where that is zero.
fn normalised(scores: &[f64]) -> Vec<f64> {
    let squares: f64 = scores.iter().map(|score| score * score).sum();
    let size = (squares / scores.len().max(1) as f64).sqrt();
    let divisor = if size > 0.0 { size } else { 1.0 };
    scores.iter().map(|score| score / divisor).collect()
}

/// For each group a score per channel of its first space: the sum over all convolutions and spaces that have the channel.
fn group_scores(
    architecture: &Architecture,
    groups: &[ChannelGroup],
    scored: &[Scored<'_>],
) -> Vec<Vec<f64>> {
    let mut of_space: Vec<Vec<f64>> = architecture
        .spaces
        .iter()
        .map(|space| vec![0.0; space.width])
        .collect();
    for layer in scored {
        if let Some(space) = layer.space {
            let sums = of_space[space].iter_mut();
            sums.zip(normalised(&layer.scores))
                .for_each(|(sum, s)| *sum += s);
        }
    }
    groups
        .iter()
        .map(|group| {
            let width = group.members.first().map_or(0, |m| of_space[m.0].len());
            let sum = |channel: usize| {
                let members = group.members.iter();
                members
                    .map(|(space, offset)| of_space[*space][channel + offset])
                    .sum()
            };
            (0..width).map(sum).collect()
        })
        .collect()
}

/// The keys by which a group's channels join, descending: normalised scores, of two regions taken in turn.
fn keys(group: &ChannelGroup, scores: &[f64]) -> Vec<f64> {
    let own: Vec<f64> = group
        .regions
        .iter()
        .flat_map(|r| scores[r.clone()].to_vec())
        .collect();
    if own.iter().all(|&score| score == 0.0) {
        return even_keys(group.len());
    }
    let own = normalised(&own);
    let mut rest = own.as_slice();
    let mut sorted: Vec<Vec<f64>> = Vec::new();
    for region in &group.regions {
        let (part, after) = rest.split_at(region.len());
        let mut part = part.to_vec();
        part.sort_by(|a, b| b.total_cmp(a));
        sorted.push(part);
        rest = after;
    }
    let longest = sorted.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|i| sorted.iter().filter_map(move |part| part.get(i)));
    // A channel cannot join before the one whose turn it is.
    let mut lowest = f64::INFINITY;
    in_turn
        .map(|&key| {
            lowest = lowest.min(key);
            lowest
        })
        .collect()
}

impl Method for Prune {
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan> {
        self.config
            .validate(recipe.epochs, self.criterion.evidence().reads_images())?;
        Ok(Plan {
            stages: self.stages(recipe),
            first_widths: full.widths(),
            filters: Filters::Computed,
            compact: Some(self.compact(full)?),
            dense_from: self.config.dense_from.clone(),
        })
    }

    fn describe(&self) -> Description {
        let c = &self.config;
        Description {
            label: format!("{}, {}, {}", c.criterion, c.keep.name(), Pruning::NAME),
            pipeline: Some(Pruning::NAME.to_owned()),
            sentence: format!(
                "Its full form was trained first, pruned by the criterion `{}`, and trained on",
                c.criterion
            ),
            ..Description::default()
        }
    }

    fn evidence_images(&self) -> usize {
        self.config.evidence_images
    }

    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<Decision> {
        self.dense = start.epoch < self.config.dense_epochs;
        match self.config.step_at(start.epoch, start.epochs) {
            Some(step) => self.prune(start, step),
            None => Ok(Decision::default()),
        }
    }

    fn distils(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        let loss = step.cross_entropy()?;
        let (network, gradients) = step.gradients_mut();
        if self.dense && self.config.scale_penalty > 0.0 {
            for (i, parameter) in network.parameters().iter().enumerate() {
                if parameter.kind == ParameterKind::NormWeight
                    && let Some(gradient) = gradients.get_mut(i)
                {
                    // The subgradient of λ · |γ|, 0 at 0.
                    let sign = network.tensor(i).sign()?;
                    *gradient = (&*gradient + (sign * self.config.scale_penalty)?)?;
                }
            }
        }
        Ok(loss)
    }

    fn save(&self) -> Result<Saved> {
        Saved::values(self.dense)
    }

    fn load(&mut self, saved: &Saved) -> Result<()> {
        self.dense = saved.read()?;
        Ok(())
    }
}

/// The classical pipeline.
pub(super) struct Pruning;

impl Pruning {
    const NAME: &str = "prune";
    /// What filters are scored by unless told otherwise.
    const CRITERION: &str = "l1-norm";
}

impl Entry for Pruning {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn about(&self) -> &'static str {
        "a dense network is trained, its lowest filters removed, and the rest fine-tuned"
    }

    fn keys(&self) -> &'static [&'static str] {
        width_keys![
            "criterion",
            "keep",
            "temperature",
            "evidence_images",
            "dense_epochs",
            "finetune_epochs",
            "finetune_learning_rate",
            "steps",
            "scale_penalty",
            "dense_from",
        ]
    }

    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig> {
        let rates = match widths::allocated_globally(given)? {
            true => widths::of_budget(given)?,
            false => widths::uniform(given)?,
        };
        let recipe = given.recipe;
        let mut config = match given.own(&[Self::NAME])? {
            Some(saved) => saved,
            None => {
                let mut criterion = Self::CRITERION.to_owned();
                given.inherit("criterion", &mut criterion)?;
                let first = widths::first(given, rates.as_ref())?;
                let mut config = PruneConfig::new(&criterion, first, recipe)?;
                given.inherit("temperature", &mut config.temperature)?;
                given.inherit("evidence_images", &mut config.evidence_images)?;
                config
            }
        };
        if let Some(rates) = rates {
            config.rates = rates;
            config.budget = None;
        }
        if let Some(criterion) = given.criterion()? {
            config.scale_penalty = criterion.scale_penalty();
            config.criterion = criterion.name().to_owned();
        }
        given.set("keep", &mut config.keep)?;
        given.set("temperature", &mut config.temperature)?;
        given.set("evidence_images", &mut config.evidence_images)?;
        given.set("scale_penalty", &mut config.scale_penalty)?;
        given.set("steps", &mut config.steps)?;
        given.set("finetune_learning_rate", &mut config.finetune_learning_rate)?;
        let finetune: Option<usize> = given.parse("finetune_epochs")?;
        match (given.parse("dense_epochs")?, finetune) {
            (Some(dense), _) => config.dense_epochs = dense,
            (None, Some(finetune)) if finetune >= recipe.epochs => {
                let message = format!(
                    "expected fewer than the {} epochs of the run, got {finetune}",
                    recipe.epochs
                );
                return Err(Error::setting("--finetune-epochs", message));
            }
            (None, Some(finetune)) => config.dense_epochs = recipe.epochs - finetune,
            (None, None) => {}
        }
        if let Some(dense) = given.network("dense_from")? {
            config.dense_from = Some(dense);
        }
        if widths::allocated_globally(given)? {
            config.budget = widths::budget(given)?;
        }
        Ok(MethodConfig::new(Self::NAME, config)?)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        Ok(MethodConfig::new(
            Self::NAME,
            config.read::<PruneConfig>()?,
        )?)
    }

    fn build(&self, config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>> {
        Ok(Box::new(Prune::new(config.read()?, context)?))
    }

    fn in_proportion(
        &self,
        config: &MethodConfig,
        from: &Recipe,
        to: &Recipe,
    ) -> Result<MethodConfig> {
        let mut prune: PruneConfig = config.read()?;
        if from.epochs != to.epochs {
            let share = prune.dense_epochs * to.epochs / from.epochs.max(1);
            prune.dense_epochs = match prune.dense_epochs == from.epochs / 2 {
                true => to.epochs / 2,
                false => share.clamp(1, to.epochs.saturating_sub(1).max(1)),
            };
        }
        let usual = |recipe: &Recipe| PruneConfig::FINETUNE_SHARE * recipe.learning_rate;
        if prune.finetune_learning_rate == usual(from) {
            prune.finetune_learning_rate = usual(to);
        } else if from.learning_rate > 0.0 && from.learning_rate != to.learning_rate {
            prune.finetune_learning_rate *= to.learning_rate / from.learning_rate;
        }
        Ok(MethodConfig::new(Self::NAME, prune)?)
    }
}

#[cfg(test)]
mod tests {
    use dcff_models::Network;

    use super::*;
    use crate::step::Progress;

    fn config(criterion: &str) -> PruneConfig {
        let rates = "0.5".parse().unwrap();
        PruneConfig::new(criterion, rates, &Recipe::quick(10)).unwrap()
    }

    fn start<'a>(
        epoch: usize,
        full: &'a Architecture,
        network: &'a Network,
        views: &'a Views,
    ) -> EpochStart<'a> {
        EpochStart {
            epoch,
            epochs: 10,
            full,
            network,
            views,
            probe: None,
        }
    }

    #[test]
    fn prunes_in_steps_to_the_same_widths() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let views = Views::dense();
        let dense = Network::new(&full, &full, 1, &candle_core::Device::Cpu).unwrap();
        let one_shot = Prune::new(config("l1-norm"), &Context::default()).unwrap();
        let mut stepwise = Prune::new(
            PruneConfig {
                steps: 3,
                ..config("l1-norm")
            },
            &Context::default(),
        )
        .unwrap();
        let target = one_shot.compact(&full).unwrap();
        let mut network = dense;
        let mut prunings = Vec::new();
        for epoch in 0..10 {
            let start = stepwise
                .epoch_start(&start(epoch, &full, &network, &views))
                .unwrap();
            if let Some(pruned) = start.network {
                prunings.push((epoch, pruned.compact().widths()[0]));
                assert_eq!(start.selection.len(), 19);
                network = pruned;
            }
        }
        // 16 channels to 8: by 2 of 8, then 3 of 6, then the rest.
        assert_eq!(prunings, [(5, 14), (6, 11), (8, 8)]);
        assert_eq!(network.compact(), &target);
        let stages = stepwise.stages(&Recipe::quick(10));
        let spans: Vec<_> = stages
            .iter()
            .map(|s| (s.name, s.epochs.clone(), s.compact))
            .collect();
        assert_eq!(
            spans,
            [
                (DENSE, 0..5, false),
                (FINETUNE, 5..8, false),
                (FINETUNE, 8..10, true)
            ]
        );
    }

    #[test]
    fn channels_of_a_stream_are_chosen_by_all_its_convolutions() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let groups = full.channel_groups().unwrap();
        let stream = full.spaces.iter().position(|s| s.name == "layer1").unwrap();
        let widths = full.spaces.iter().map(|space| space.width);
        let scored: Vec<Scored<'_>> = widths
            .enumerate()
            .map(|(space, width)| Scored {
                layer: "",
                space: Some(space),
                scores: vec![1.0; width],
                similarity: None,
            })
            .collect();
        let even = group_scores(&full, &groups, &scored);
        // Channel 3 of the first stage is channel 11 of the second and 27 of the third.
        assert_eq!(even[stream], vec![3.0; 16]);
        let mut uneven = scored;
        uneven.last_mut().unwrap().scores[27] = 5.0;
        let uneven = group_scores(&full, &groups, &uneven);
        let best = (0..16).max_by(|&a, &b| uneven[stream][a].total_cmp(&uneven[stream][b]));
        assert_eq!(best, Some(3));
    }

    #[test]
    fn one_threshold_for_all_layers_meets_the_budget() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let budget = Budget::new(dcff_flops::Measure::Macs, "30%".parse().unwrap());
        let mut method = Prune::new(
            PruneConfig {
                budget: Some(budget),
                ..config("l2-norm")
            },
            &Context::default(),
        )
        .unwrap();
        let network = Network::new(&full, &full, 3, &candle_core::Device::Cpu).unwrap();
        let views = Views::dense();
        let pruned = method
            .epoch_start(&start(5, &full, &network, &views))
            .unwrap()
            .network
            .unwrap();
        let got = budget.measure.of(pruned.compact()).unwrap();
        let aim = budget.target.of(budget.measure.of(&full).unwrap());
        assert!(
            got <= aim && got as f64 > 0.99 * aim as f64,
            "{got} for {aim}"
        );
        let widths = pruned.compact().widths();
        assert!(widths.iter().any(|w| *w != widths[0]), "{widths:?}");
    }

    #[test]
    fn keys_of_two_regions_join_in_turn() {
        let group = ChannelGroup {
            members: vec![(0, 0)],
            regions: vec![4..6, 0..2],
        };
        // Behind 6 and 1, before 3 and 2: in turn 6, 3, 1, 2, the last held back by the one before it; rms √12.5.
        let keys = keys(&group, &[2.0, 3.0, 9.0, 9.0, 1.0, 6.0]);
        let expected = [6.0, 3.0, 1.0, 1.0].map(|key: f64| key / 12.5_f64.sqrt());
        assert!(
            keys.iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{keys:?}"
        );
    }

    #[test]
    fn the_penalty_pulls_scales_towards_zero_in_the_dense_stage_only() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let device = candle_core::Device::Cpu;
        let images = candle_core::Tensor::rand(-1f32, 1f32, (2, 3, 32, 32), &device).unwrap();
        let labels = candle_core::Tensor::new(&[1u32, 7], &device).unwrap();
        let gradient = |penalty: f64, epoch: usize| -> Vec<f32> {
            let mut network = Network::new(&full, &full, 1, &device).unwrap();
            let settings = PruneConfig {
                scale_penalty: penalty,
                ..config("bn-scale")
            };
            let mut method = Prune::new(settings, &Context::default()).unwrap();
            let views = Views::dense();
            method.dense = epoch < 5;
            let bn1 = network
                .parameters()
                .iter()
                .position(|p| p.name == "bn1.weight");
            let at = Progress::default();
            let mut step = Step::new(&mut network, &views, (&images, &labels), 0.0, at, 0);
            method.step(&mut step).unwrap();
            let gradients = step.into_gradients().network;
            gradients.get(bn1.unwrap()).unwrap().to_vec1().unwrap()
        };
        let (without, with, later) = (gradient(0.0, 0), gradient(0.25, 0), gradient(0.25, 5));
        // All scales start at 1.
        assert!(
            with.iter()
                .zip(&without)
                .all(|(a, b)| (a - b - 0.25).abs() < 1e-5)
        );
        assert_eq!(later, without);
        assert_eq!(config("bn-scale").scale_penalty, 1e-4);
        assert_eq!(config("fpgm").scale_penalty, 0.0);
    }

    #[test]
    fn refuses_stages_that_do_not_fit() {
        let refused = |change: fn(&mut PruneConfig)| {
            let mut config = config("fpgm");
            change(&mut config);
            config.validate(10, true).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|config| config.dense_epochs = 10),
            "method.dense_epochs: expected 1 to 9, so that epochs are left to fine-tune, got 10"
        );
        assert_eq!(
            refused(|config| config.steps = 6),
            "method.steps: expected 1 to 5, the epochs of fine-tuning, got 6"
        );
        assert!(refused(|config| config.scale_penalty = -1.0).starts_with("method.scale_penalty"));
        assert!(refused(|config| config.evidence_images = 0).starts_with("method.evidence_images"));
        let mut blind = config("fpgm");
        blind.evidence_images = 0;
        blind.validate(10, false).unwrap();
    }
}
