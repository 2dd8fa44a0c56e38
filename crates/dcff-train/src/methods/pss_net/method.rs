//! The hook on the training loop.

use std::collections::BTreeMap;

use dcff_models::{Blend, Network, Parameter, ParameterKind, Program, Trace, Views};
use dcff_nn::LossValue;
use dcff_run::{Description, Recipe};
use serde::{Deserialize, Serialize};

use crate::distillation::distillation;
use crate::error::{Error, Result};
use crate::method::{Decision, End, EpochStart, Filters, Method, Plan, Product, Saved, Setup};
use crate::optimizer::{Group, Id};
use crate::optimizers::Sgd;
use crate::stage::Stage;
use crate::step::{Pass, Step};

use super::map::Map;
use super::pool::{Pool, decayed, explores};
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
    smallest: Program,
    smallest_side: usize,
}

/// What an epoch's steps came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Tally {
    steps: u64,
    explored: u64,
    score: f64,
    subnet_loss: f64,
    smallest_loss: f64,
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
        self.ready
            .as_ref()
            .ok_or_else(|| Error::setting("method", "a step before its setup"))
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

    /// The networks of all pools: of each target the member with the best score.
    fn best(&self) -> impl Iterator<Item = (u64, &Subnet)> {
        self.pools.iter().filter_map(|(&target, pool)| {
            pool.best().first().map(|member| (target, &member.subnet))
        })
    }

    fn extracted(&self, network: &Network, subnet: &Subnet) -> Result<Network> {
        let architecture = self.ready()?.space.architecture(subnet)?;
        let program = Program::new(&architecture, network.weights())?;
        let mut plain = program.extract(network.weights(), &Views::dense())?;
        plain.set_convolution(network.convolution());
        Ok(plain)
    }
}

/// A training pass of a slice: the trace and the loss against the logits `told`.
fn distilled(
    step: &mut Step<'_>,
    pass: &Pass<'_>,
    side: usize,
    told: &candle_core::Tensor,
) -> Result<(Trace, f64, candle_core::Tensor)> {
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
        let smallest = space.subnet(&space.smallest());
        let architecture = space.architecture(&smallest)?;
        self.ready = Some(Ready {
            targets: map.targets(),
            map,
            smallest: Program::new(&architecture, setup.network.weights())?,
            smallest_side: smallest.side,
            space,
        });
        Ok(())
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
        }
        // Of the epoch before.
        let Tally {
            steps,
            explored,
            score,
            subnet_loss,
            smallest_loss,
        } = std::mem::take(&mut self.tally);
        if steps > 0 {
            let mean = |sum: f64| sum / steps as f64;
            say("explored", mean(explored as f64));
            say("score", mean(score));
            say("subnet_kl", mean(subnet_loss));
            say("smallest_kl", mean(smallest_loss));
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

    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        let views = Views::dense();
        let whole = Pass::train(&views);
        let images = step.images;
        let trace = step.forward(&whole, images)?;
        let told = trace.logits().clone();
        let loss = dcff_nn::cross_entropy(&told, step.labels, step.smoothing)?;
        step.backward(trace, &whole, loss.grad.into())?;

        let (target, new, subnet) = self.choose(step)?;
        let architecture = self.ready()?.space.architecture(&subnet)?;
        let program = Program::new(&architecture, step.network.weights())?;
        let pass = Pass {
            program: Some(&program),
            ..whole
        };
        let (trace, subnet_loss, gradient) = distilled(step, &pass, subnet.side, &told)?;
        // As the pass that only scored it would have moved them.
        program.update_statistics(step.network.weights_mut(), &trace, Blend::Momentum)?;
        let score = -dcff_nn::cross_entropy(trace.logits(), step.labels, 0.0)?
            .value
            .read()?
            .mean;
        step.backward(trace, &pass, gradient.into())?;
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
        let pool = self.pools.entry(target).or_default();
        pool.book(subnet, score, self.config.decay, self.config.capacity);

        let ready = self.ready()?;
        let pass = Pass {
            program: Some(&ready.smallest),
            ..whole
        };
        let (trace, smallest_loss, gradient) = distilled(step, &pass, ready.smallest_side, &told)?;
        step.backward(trace, &pass, gradient.into())?;

        self.tally.steps += 1;
        self.tally.explored += u64::from(new);
        self.tally.score += score;
        self.tally.subnet_loss += subnet_loss;
        self.tally.smallest_loss += smallest_loss;
        Ok(loss.value)
    }

    fn recalibration(&self) -> Option<usize> {
        Some(self.config.recalibration)
    }

    fn finish(&mut self, end: End<'_>) -> Result<Vec<Product>> {
        let ready = self.ready()?;
        let smallest = ready.space.subnet(&ready.space.smallest());
        let mut subnets = vec![(ready.space.macs(&smallest)?, &smallest)];
        subnets.extend(self.best());
        let network = end.network;
        let mut products = end.collapsed();
        for (target, subnet) in subnets {
            let product = Product::new(label(target), self.extracted(network, subnet)?);
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
