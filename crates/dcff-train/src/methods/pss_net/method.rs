//! The hook on the training loop.

use std::collections::BTreeMap;

use candle_core::Tensor;
use dcff_compact::Slice;
use dcff_models::{Blend, Parameter, ParameterKind, Trace, Views};
use dcff_nn::LossValue;
use dcff_run::{Description, Recipe};
use serde::{Deserialize, Serialize};

use crate::distillation::distillation;
use crate::error::{Error, Result};
use crate::method::{
    Decision, End, EpochEnd, EpochStart, Filters, Method, Plan, Product, Saved, Setup,
};
use crate::optimizer::{Group, Id};
use crate::optimizers::Sgd;
use crate::stage::Stage;
use crate::step::{Pass, Step};

use super::map::Map;
use super::pool::{Pool, decayed, explores};
use super::programs::Programs;
use super::settings::{PssNetConfig, TARGETS};
use super::space::{Space, Subnet};
use crate::random::Random;

/// Trains a network and its slices.
#[derive(Debug)]
pub struct PssNet {
    config: PssNetConfig,
    ready: Option<Ready>,
    pools: BTreeMap<u64, Pool<Subnet>>,
    tally: Tally,
}

/// What is made before the first epoch.
#[derive(Debug)]
struct Ready {
    space: Space,
    map: Map,
    targets: Vec<u64>,
    smallest: Subnet,
    programs: Programs,
}

/// What the passes of a step came to.
#[derive(Debug)]
pub struct Passes {
    /// Of the whole network on the labels.
    pub loss: LossValue,
    /// Minus the cross-entropy of the subnet.
    pub score: f64,
    /// How far the subnet and the smallest one are from the whole network: the losses that they are trained with.
    pub divergences: [f64; 2],
    /// Of the whole network, the subnet and the smallest one, `[N, classes]`.
    pub logits: [Tensor; 3],
}

/// What an epoch's steps came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Tally {
    steps: u64,
    explored: u64,
    score: f64,
    subnet_loss: f64,
    smallest_loss: f64,
    /// Multiply-accumulates of the passes of slices.
    #[serde(default)]
    macs: u64,
}

/// What survives an interruption.
#[derive(Serialize, Deserialize)]
struct State {
    pools: Vec<(u64, Pool<Subnet>)>,
    tally: Tally,
}

/// Random streams of a step.
const DRAWS: u64 = 0;

impl PssNet {
    /// The name on the command line.
    pub const NAME: &str = "pss-net";

    /// The method with `config`.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(config: PssNetConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            ready: None,
            pools: BTreeMap::new(),
            tally: Tally::default(),
        })
    }

    /// The pools by target.
    pub fn pools(&self) -> &BTreeMap<u64, Pool<Subnet>> {
        &self.pools
    }

    fn ready(&self) -> Result<&Ready> {
        self.ready.as_ref().ok_or_else(unready)
    }

    /// The passes of one step over the whole network, `subnet` and the smallest one: running statistics move and gradients are added.
    ///
    /// # Errors
    /// Before [`Method::setup`], and those of the device.
    pub fn passes(&mut self, step: &mut Step<'_>, subnet: &Subnet) -> Result<Passes> {
        let ready = self.ready.as_mut().ok_or_else(unready)?;
        let views = Views::dense();
        let whole = Pass::train(&views);
        let images = step.images;
        let trace = step.forward(&whole, images)?;
        let told = trace.logits().clone();
        let loss = dcff_nn::cross_entropy(&told, step.labels, step.smoothing)?;
        step.backward(trace, &whole, loss.grad.into())?;

        let (space, programs) = (&ready.space, &mut ready.programs);
        let program = programs.of(subnet, space, step.network.weights())?;
        let pass = Pass {
            program: Some(&program),
            ..whole
        };
        let (trace, subnet_loss, gradient) = distilled(step, &pass, subnet.side, &told)?;
        // As the pass that only scored it would have moved them.
        program.update_statistics(step.network.weights_mut(), &trace, Blend::Momentum)?;
        let of_subnet = trace.logits().clone();
        let score = -dcff_nn::cross_entropy(&of_subnet, step.labels, 0.0)?
            .value
            .read()?
            .mean;
        step.backward(trace, &pass, gradient.into())?;

        let smallest = &ready.smallest;
        let program = programs.of(smallest, space, step.network.weights())?;
        let pass = Pass {
            program: Some(&program),
            ..whole
        };
        let (trace, smallest_loss, gradient) = distilled(step, &pass, smallest.side, &told)?;
        let of_smallest = trace.logits().clone();
        step.backward(trace, &pass, gradient.into())?;
        Ok(Passes {
            loss: loss.value,
            score,
            divergences: [subnet_loss, smallest_loss],
            logits: [told, of_subnet, of_smallest],
        })
    }

    /// The subnet of a step: its target, whether it is new, and what it is.
    fn choose(&self, step: &Step<'_>) -> Result<(u64, bool, Subnet)> {
        let ready = self.ready()?;
        let mut random = Random::new(step.seed(DRAWS));
        let target = ready.targets[random.below(ready.targets.len())];
        let (epoch, epochs) = (step.at.epoch, step.at.epochs);
        let drawn = random.unit();
        let exploration = decayed(self.config.exploration, epoch, epochs);
        let pool = self.pools.get(&target);
        let members = pool.map_or(0, |pool| pool.members().len());
        if !explores(drawn, exploration, members, self.config.capacity) {
            let temperature = decayed(self.config.temperature, epoch, epochs);
            let member = pool.and_then(|pool| pool.draw(temperature, &mut random));
            if let Some(subnet) = member {
                return Ok((target, false, subnet.clone()));
            }
        }
        let subnet = ready.map.sample(&ready.space, target, &mut random)?;
        Ok((target, true, subnet))
    }

    /// `subnet` as a slice.
    fn slice_of(&self, subnet: &Subnet, target: Option<u64>, score: Option<f64>) -> Result<Slice> {
        let space = &self.ready()?.space;
        let macs = space.macs(subnet)?;
        Ok(Slice {
            config: space.config(subnet),
            input: space.architecture(subnet)?.input,
            widths: subnet.widths.clone(),
            macs,
            target: target.unwrap_or(macs),
            score,
        })
    }
}

fn unready() -> Error {
    Error::setting("method", "a step before its setup")
}

/// A training pass of a slice: the trace and the loss against the logits `told`.
fn distilled(
    step: &mut Step<'_>,
    pass: &Pass<'_>,
    side: usize,
    told: &Tensor,
) -> Result<(Trace, f64, Tensor)> {
    let images = step.images_at(side)?;
    let trace = step.forward(pass, &images)?;
    let term = distillation(trace.logits(), told, 1.0)?;
    Ok((trace, term.value, term.gradient))
}

impl Method for PssNet {
    fn plan(&self, full: &dcff_models::Architecture, recipe: &Recipe) -> Result<Plan> {
        let space = self.config.space(full)?;
        self.config.target_step(&space)?;
        Ok(Plan::whole(full.clone(), Filters::Computed, recipe))
    }

    fn describe(&self) -> Description {
        let chosen = match self.config.exploration[1] < 1.0 {
            true => "prioritized",
            false => "uniform",
        };
        Description {
            label: format!("{} {chosen}", Self::NAME),
            pipeline: Some(Self::NAME.to_owned()),
            sentence: "It is the whole network of a supernet, trained together with its slices"
                .into(),
            citation: Some(CITATION.into()),
            ..Description::default()
        }
    }

    fn setup(&mut self, setup: &Setup<'_>) -> Result<()> {
        let space = self.config.space(setup.full)?;
        let (drawing, wanted) = (self.config.map, self.config.observations);
        let map = match self.config.target_step {
            Some(step) => Map::new(&space, step, drawing, wanted, setup.seed),
            None => Map::even(&space, TARGETS, drawing, wanted, setup.seed),
        }?;
        self.ready = Some(Ready {
            targets: map.targets(),
            map,
            smallest: space.subnet(&space.smallest()),
            programs: Programs::default(),
            space,
        });
        Ok(())
    }

    fn foreword(&self) -> Vec<String> {
        let Some(ready) = &self.ready else {
            return Vec::new();
        };
        let coverage = ready.map.coverage();
        let (Some(first), Some(last)) = (coverage.first(), coverage.last()) else {
            return Vec::new();
        };
        let fewest = coverage.iter().min_by_key(|row| row.subnets);
        let fewest = fewest.unwrap_or(first);
        let mut lines = vec![format!(
            "{} targets from {} to {} multiply-accumulates in steps of {}: at least {} subnets known of each, of {} the fewest",
            coverage.len(),
            label(first.target),
            label(last.target),
            label(ready.map.step()),
            fewest.subnets,
            label(fewest.target)
        )];
        let empty = ready.map.unseen();
        if !empty.is_empty() {
            let empty: Vec<String> = empty.into_iter().map(label).collect();
            lines.push(format!("no subnet is known of {}", empty.join(", ")));
        }
        lines
    }

    fn groups(&self, parameters: &[Parameter], stage: &Stage) -> Vec<Group> {
        let rule = Sgd {
            momentum: stage.recipe.momentum,
            nesterov: stage.recipe.nesterov,
        };
        let decays = |id: &Id| match id {
            Id::Network(i) => {
                let parameter = &parameters[*i];
                match parameter.kind {
                    ParameterKind::LinearWeight => true,
                    // Depthwise filters are as few numbers as biases.
                    ParameterKind::ConvWeight => parameter.shape[1] > 1,
                    _ => false,
                }
            }
            _ => false,
        };
        let (decaying, others): (Vec<_>, Vec<_>) = Group::trained(parameters).partition(decays);
        vec![
            Group::new("weights", decaying, rule, stage.recipe.weight_decay),
            Group::new("without decay", others, rule, 0.0),
        ]
    }

    fn epoch_start(&mut self, start: &EpochStart<'_>) -> Result<Decision> {
        let mut diagnostics = BTreeMap::new();
        let mut say = |name: &str, value: f64| diagnostics.insert(name.to_owned(), value);
        if let Some(ready) = &self.ready {
            let coverage = ready.map.coverage();
            say("targets", coverage.len() as f64);
            let fewest = coverage.iter().map(|row| row.subnets).min();
            say("fewest_subnets", fewest.unwrap_or(0) as f64);
            // What is known of each does not change.
            for row in coverage.iter().filter(|_| start.epoch == 0) {
                say(&format!("subnets_at_{}", row.target), row.subnets as f64);
            }
        }
        let members = self.pools.values().map(|pool| pool.members().len());
        say("pooled", members.sum::<usize>() as f64);
        say(
            "exploration",
            decayed(self.config.exploration, start.epoch, start.epochs),
        );
        Ok(Decision {
            diagnostics,
            ..Decision::default()
        })
    }

    fn epoch_end(&mut self) -> Result<EpochEnd> {
        let Tally {
            steps,
            explored,
            score,
            subnet_loss,
            smallest_loss,
            macs,
        } = std::mem::take(&mut self.tally);
        let mean = |sum: f64| sum / steps.max(1) as f64;
        let said = [
            ("explored", mean(explored as f64)),
            ("score", mean(score)),
            ("subnet_kl", mean(subnet_loss)),
            ("smallest_kl", mean(smallest_loss)),
        ];
        Ok(EpochEnd {
            diagnostics: said.map(|(name, value)| (name.to_owned(), value)).into(),
            macs,
        })
    }

    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        let (target, new, subnet) = self.choose(step)?;
        let Passes {
            loss,
            score,
            divergences: [subnet_loss, smallest_loss],
            ..
        } = self.passes(step, &subnet)?;
        if !score.is_finite() {
            return Err(Error::setting(
                "method",
                format!(
                    "the loss of the subnet of {} pixels and widths {:?} is {score} in epoch {}",
                    subnet.side,
                    subnet.widths,
                    step.at.epoch + 1
                ),
            ));
        }
        // A backward pass is about two forward passes, as for the whole network.
        let ready = self.ready()?;
        let of_image = ready.space.macs(&subnet)? + ready.space.macs(&ready.smallest)?;
        let macs = 3 * of_image * step.labels.elem_count() as u64;
        let pool = self.pools.entry(target).or_default();
        pool.book(subnet, score, self.config.decay, self.config.capacity);
        self.tally.macs += macs;
        self.tally.steps += 1;
        self.tally.explored += u64::from(new);
        self.tally.score += score;
        self.tally.subnet_loss += subnet_loss;
        self.tally.smallest_loss += smallest_loss;
        Ok(loss)
    }

    fn recalibration(&self) -> Option<usize> {
        Some(self.config.recalibration)
    }

    fn slices(&self) -> Result<Vec<Slice>> {
        let ready = self.ready()?;
        let ends = [ready.space.smallest(), ready.space.largest()];
        let ends = ends
            .iter()
            .map(|draw| (ready.space.subnet(draw), None, None));
        let members = self.pools.iter().flat_map(|(&target, pool)| {
            let best = pool.best().into_iter();
            best.map(move |m| (m.subnet.clone(), Some(target), Some(m.score)))
        });
        ends.chain(members)
            .map(|(subnet, target, score)| self.slice_of(&subnet, target, score))
            .collect()
    }

    fn slice(&self, config: &str) -> Result<Slice> {
        let subnet = self.ready()?.space.read(config)?;
        let pools = self.pools.iter();
        let known = pools.rev().find_map(|(&target, pool)| {
            let member = pool.members().iter().find(|m| m.subnet == subnet)?;
            Some((target, member))
        });
        let (target, score) = (known.map(|(t, _)| t), known.map(|(_, m)| m.score));
        self.slice_of(&subnet, target, score)
    }

    fn finish(&mut self, end: End<'_>) -> Result<Vec<Product>> {
        let network = end.network;
        let mut slices = vec![self.slice_of(&self.ready()?.smallest, None, None)?];
        for (&target, pool) in &self.pools {
            if let Some(best) = pool.best().first() {
                slices.push(self.slice_of(&best.subnet, Some(target), Some(best.score))?);
            }
        }
        let mut products = end.collapsed();
        for slice in slices {
            let product = Product::new(label(slice.target), slice.cut(network)?);
            products.push(product.recalibrated(self.config.recalibration));
        }
        Ok(products)
    }

    fn save(&self) -> Result<Saved> {
        let pools = self.pools.iter();
        Saved::values(State {
            pools: pools
                .map(|(&target, pool)| (target, pool.clone()))
                .collect(),
            tally: self.tally,
        })
    }

    fn load(&mut self, saved: &Saved) -> Result<()> {
        let state: State = saved.read()?;
        self.pools = state.pools.into_iter().collect();
        self.tally = state.tally;
        Ok(())
    }
}

/// What a result of so many multiply-accumulates is called: `12.3M`.
fn label(macs: u64) -> String {
    format!("{:.1}M", macs as f64 / 1e6)
}

const CITATION: &str = "@article{chen2021pssnet,
  title = {Prioritized Subnet Sampling for Resource-Adaptive Supernet Training},
  author = {Chen, Bohong and Lin, Mingbao and Ji, Rongrong and Cao, Liujuan},
  journal = {arXiv preprint arXiv:2109.05432},
  year = {2021}
}";
