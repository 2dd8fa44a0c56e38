//! One optimiser for all that is trained: groups of parameters, each with its rule, rate and decay.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use dcff_models::{Gradients, Network, Parameter};
use dcff_run::Recipe;

use crate::error::{Error, Result};
use crate::optimizers::{Descent, Pace, Rule, Sgd};

/// Something that is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A parameter of the network, by its position in [`Network::parameters`].
    Network(usize),
    /// A variable of the method's own, by its position among those given to [`Optimizer::new`].
    Own(usize),
}

/// What is trained in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// No other group has this name.
    pub name: String,
    /// In the order in which they are moved.
    pub members: Vec<Id>,
    /// How they are moved; `None` for those that stay as they are.
    pub rule: Option<Rule>,
    /// A factor on the step's learning rate.
    pub rate: f64,
    /// Weight decay.
    pub decay: f64,
}

impl Group {
    /// `members` moved by `rule` at the step's learning rate.
    pub fn new(
        name: impl Into<String>,
        members: impl IntoIterator<Item = Id>,
        rule: impl Into<Rule>,
        decay: f64,
    ) -> Self {
        Self {
            name: name.into(),
            members: members.into_iter().collect(),
            rule: Some(rule.into()),
            rate: 1.0,
            decay,
        }
    }

    /// A network's parameters in one group: weight decay reaches all of them, batch norm's included, as in the published
    /// recipe.
    pub fn all(parameters: &[Parameter], recipe: &Recipe) -> Vec<Self> {
        let rule = Sgd {
            momentum: recipe.momentum,
            nesterov: recipe.nesterov,
        };
        vec![Self::whole(parameters, rule, recipe.weight_decay)]
    }

    /// `members` that stay as they are.
    pub fn frozen(members: impl IntoIterator<Item = Id>) -> Self {
        Self {
            name: "frozen".into(),
            members: members.into_iter().collect(),
            rule: None,
            rate: 0.0,
            decay: 0.0,
        }
    }

    /// Those of a network's parameters that are trained.
    pub fn trained(parameters: &[Parameter]) -> impl Iterator<Item = Id> {
        let numbered = parameters.iter().enumerate();
        numbered
            .filter(|(_, parameter)| parameter.kind.is_trained())
            .map(|(i, _)| Id::Network(i))
    }

    /// Every trained parameter of a network, biases and batch norm's included, in one group.
    pub fn whole(parameters: &[Parameter], rule: impl Into<Rule>, decay: f64) -> Self {
        Self::new("weights", Self::trained(parameters), rule, decay)
    }

    fn descent(&self) -> Option<&dyn Descent> {
        self.rule.as_ref().map(Rule::descent)
    }

    /// What is kept for each member.
    fn slots(&self) -> &'static [&'static str] {
        self.descent().map_or(&[], Descent::slots)
    }
}

/// A group, and what is kept for it.
#[derive(Debug)]
struct Kept {
    group: Group,
    /// For each member, a tensor for each slot of the rule.
    slots: Vec<Vec<Tensor>>,
    /// Steps done.
    steps: u64,
}

/// Moves a network's parameters and a method's own variables, group by group.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<Kept>,
    own: Vec<(String, Var)>,
    /// The learning rate of the step under way.
    lr: f64,
}

impl Optimizer {
    /// Everything in `groups` before its first step; `own` are a method's own variables by name.
    ///
    /// # Errors
    /// When a parameter or variable is in no group or in two, naming it, a setting is out of range, or allocating fails.
    pub fn new(network: &Network, own: &[(&str, &Var)], groups: Vec<Group>) -> Result<Self> {
        let own: Vec<_> = own
            .iter()
            .map(|&(name, var)| (name.to_owned(), var.clone()))
            .collect();
        let mut optimizer = Self {
            groups: Vec::new(),
            own,
            lr: 0.0,
        };
        optimizer.regroup(network, groups)?;
        Ok(optimizer)
    }

    /// Goes on with `groups`. One that has its name, members and kind of rule from before keeps what it remembers, another starts
    /// anew. Whether anything is another than before, so that a step that a GPU recorded is good no longer.
    ///
    /// # Errors
    /// Those of [`Optimizer::new`]; nothing has changed then.
    pub fn regroup(&mut self, network: &Network, groups: Vec<Group>) -> Result<bool> {
        self.audit(network, &groups)?;
        if self.groups.iter().map(|kept| &kept.group).eq(&groups) {
            return Ok(false);
        }
        let mut fresh = Vec::with_capacity(groups.len());
        for group in &groups {
            let slots = match self.kept_for(group) {
                Some(_) => None,
                None => Some(self.zeros(network, group)?),
            };
            fresh.push(slots);
        }
        let mut old = std::mem::take(&mut self.groups);
        for (group, slots) in groups.into_iter().zip(fresh) {
            let same = old.iter().position(|kept| kept.group.name == group.name);
            let (slots, steps) = match (slots, same) {
                (None, Some(same)) => {
                    let kept = old.swap_remove(same);
                    (kept.slots, kept.steps)
                }
                (slots, _) => (slots.unwrap_or_default(), 0),
            };
            self.groups.push(Kept {
                group,
                slots,
                steps,
            });
        }
        Ok(true)
    }

    /// The group that `group` goes on from.
    fn kept_for(&self, group: &Group) -> Option<&Kept> {
        self.groups.iter().find(|Kept { group: old, .. }| {
            old.name == group.name && old.members == group.members && old.slots() == group.slots()
        })
    }

    /// What is kept for `group` before its first step.
    fn zeros(&self, network: &Network, group: &Group) -> Result<Vec<Vec<Tensor>>> {
        let members = group.members.iter();
        members
            .map(|&id| {
                let slots = group.slots().iter();
                slots
                    .map(|_| Ok(self.tensor(network, id).zeros_like()?))
                    .collect()
            })
            .collect()
    }

    fn tensor<'a>(&'a self, network: &'a Network, id: Id) -> &'a Tensor {
        match id {
            Id::Network(i) => network.tensor(i),
            Id::Own(i) => &self.own[i].1,
        }
    }

    fn name<'a>(&'a self, network: &'a Network, id: Id) -> &'a str {
        match id {
            Id::Network(i) => &network.parameters()[i].name,
            Id::Own(i) => &self.own[i].0,
        }
    }

    /// Fails unless everything that can be trained is in one group.
    fn audit(&self, network: &Network, groups: &[Group]) -> Result<()> {
        let error = |name: &str, message: String| Err(Error::setting(name, message));
        let parameters = network.parameters();
        let mut owner: BTreeMap<Id, &str> = BTreeMap::new();
        let mut names: Vec<&str> = Vec::new();
        for group in groups {
            let name = group.name.as_str();
            if names.contains(&name) {
                return error("optimizer", format!("two groups are called {name}"));
            }
            names.push(name);
            if let Some(descent) = group.descent() {
                descent.validate()?;
            }
            for (what, value) in [("rate", group.rate), ("decay", group.decay)] {
                if !(0.0..=1e6).contains(&value) {
                    return error(
                        &format!("optimizer.{name}.{what}"),
                        format!("expected 0 to 1000000, got {value}"),
                    );
                }
            }
            for &id in &group.members {
                let unknown = match id {
                    Id::Network(i) => i >= parameters.len(),
                    Id::Own(i) => i >= self.own.len(),
                };
                if unknown {
                    return error("optimizer", format!("group {name}: there is no {id:?}"));
                }
                if let Id::Network(i) = id
                    && !parameters[i].kind.is_trained()
                {
                    let message = format!("is in the group {name}, and is not trained");
                    return error(&parameters[i].name, message);
                }
                if let Some(other) = owner.insert(id, name) {
                    let message = match other == name {
                        true => format!("is in the group {name} twice"),
                        false => format!("is in the groups {other} and {name}"),
                    };
                    return error(self.name(network, id), message);
                }
            }
        }
        let all = Group::trained(parameters).chain((0..self.own.len()).map(Id::Own));
        for id in all {
            if !owner.contains_key(&id) {
                let message = "is in no group of the optimiser, nor listed as frozen";
                return error(self.name(network, id), message.into());
            }
        }
        Ok(())
    }

    /// Begins a step at the learning rate `lr`, once for every step, however often [`Optimizer::apply`] is called in it.
    /// The rates of all groups: what [`dcff_nn::RepeatedStep::run`] asks for.
    pub fn begin(&mut self, lr: f64) -> Vec<f64> {
        self.lr = lr;
        for kept in &mut self.groups {
            kept.steps += 1;
        }
        let groups = self.groups.iter();
        groups
            .filter_map(|kept| Some(kept.group.descent()?.rates(&self.pace(kept))))
            .flatten()
            .collect()
    }

    fn pace(&self, kept: &Kept) -> Pace {
        Pace {
            lr: self.lr * kept.group.rate,
            decay: kept.group.decay,
            step: kept.steps,
        }
    }

    /// Moves what has a gradient, in place: `network`'s parameters by `gradients`, the method's own variables by `own`, in
    /// their order, as many as there are. [`Optimizer::begin`] comes before.
    ///
    /// # Errors
    /// Those of the device.
    pub fn apply(
        &self,
        network: &Network,
        gradients: &Gradients,
        own: &[Option<Tensor>],
    ) -> Result<()> {
        let mut cell = 0;
        for kept in &self.groups {
            let Some(descent) = kept.group.descent() else {
                continue;
            };
            let members = kept.group.members.iter().zip(&kept.slots);
            let rows: Vec<Vec<&Tensor>> = members
                .filter_map(|(&id, slots)| {
                    let gradient = match id {
                        Id::Network(i) => gradients.get(i)?,
                        Id::Own(i) => own.get(i)?.as_ref()?,
                    };
                    let mut row = vec![self.tensor(network, id)];
                    row.extend(slots);
                    row.push(gradient);
                    Some(row)
                })
                .collect();
            let pace = self.pace(kept);
            descent.sweep(&rows, &pace, cell)?;
            cell += descent.rates(&pace).len();
        }
        Ok(())
    }

    /// A whole step over a network's parameters: [`Optimizer::begin`] and [`Optimizer::apply`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn step(&mut self, network: &Network, gradients: &Gradients, lr: f64) -> Result<()> {
        self.begin(lr);
        self.apply(network, gradients, &[])
    }

    /// What it remembers, named as in checkpoints: `velocity/conv1.weight`, `own.exp_avg/NAME` of a method's own variables,
    /// and `steps/GROUP` where a rule counts.
    pub fn state(&self, network: &Network) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for kept in &self.groups {
            if kept.group.descent().is_some_and(Descent::counts) {
                let steps = Tensor::new(&[kept.steps as i64], &Device::Cpu)?;
                all.push((steps_name(&kept.group), steps));
            }
            for (&id, slots) in kept.group.members.iter().zip(&kept.slots) {
                for (slot, tensor) in kept.group.slots().iter().zip(slots) {
                    all.push((self.slot_name(network, id, slot), tensor.clone()));
                }
            }
        }
        Ok(all)
    }

    fn slot_name(&self, network: &Network, id: Id, slot: &str) -> String {
        let of = match id {
            Id::Network(_) => "",
            Id::Own(_) => "own.",
        };
        format!("{of}{slot}/{}", self.name(network, id))
    }

    /// Replaces what it remembers by copies of what `find` returns for the names of [`Optimizer::state`].
    ///
    /// # Errors
    /// When something is missing or has another shape; nothing has changed then.
    pub fn load(&mut self, network: &Network, find: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        let given = |name: &str, shape: &[usize]| {
            let given = find(name).ok_or_else(|| Error::setting(name, "is missing"))?;
            if given.dims() != shape {
                let message = format!("expected the shape {shape:?}, got {:?}", given.dims());
                return Err(Error::setting(name, message));
            }
            Ok(given)
        };
        let mut loaded = Vec::with_capacity(self.groups.len());
        for kept in &self.groups {
            let steps = match kept.group.descent().is_some_and(Descent::counts) {
                true => {
                    let steps = given(&steps_name(&kept.group), &[1])?;
                    let steps = steps.to_dtype(DType::I64)?.to_vec1::<i64>()?;
                    steps[0].max(0).unsigned_abs()
                }
                false => 0,
            };
            let mut slots = Vec::with_capacity(kept.slots.len());
            for &id in &kept.group.members {
                let tensor = self.tensor(network, id);
                let of_member = kept.group.slots().iter().map(|slot| {
                    let given = given(&self.slot_name(network, id, slot), tensor.dims())?;
                    Ok(given.to_device(tensor.device())?.copy()?)
                });
                slots.push(of_member.collect::<Result<Vec<_>>>()?);
            }
            loaded.push((slots, steps));
        }
        for (kept, (slots, steps)) in self.groups.iter_mut().zip(loaded) {
            (kept.slots, kept.steps) = (slots, steps);
        }
        Ok(())
    }
}

fn steps_name(group: &Group) -> String {
    format!("steps/{}", group.name)
}

#[cfg(test)]
mod tests {
    use dcff_models::{Architecture, Builder, INPUT, Initialisation, LayerKind, Views};

    use super::*;
    use crate::cross_entropy_step;
    use crate::optimizers::{AdamW, Adamax, Sgd};

    fn architecture() -> Architecture {
        let mut b = Builder::new("tiny", [3, 6, 6], Initialisation::KaimingNormalFanIn);
        b.space("conv", 6);
        let x = b.conv("conv", "conv", [3, 1, 1], true, INPUT);
        let x = b.norm("norm", &x);
        let x = b.relu("relu", &x);
        let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
        b.linear("fc", 2, &x);
        b.finish()
    }

    fn network() -> Network {
        let full = architecture();
        Network::new(&full, &full, 3, &Device::Cpu).unwrap()
    }

    fn gradients(network: &mut Network) -> Gradients {
        let pixels: Vec<f32> = (0..4 * 108)
            .map(|i| (i * i % 101) as f32 / 50.0 - 1.0)
            .collect();
        let images = Tensor::from_vec(pixels, (4, 3, 6, 6), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu).unwrap();
        let output = cross_entropy_step(network, &Views::dense(), &images, &labels, 0.0);
        output.unwrap().gradients
    }

    fn ids(network: &Network, names: &[&str]) -> Vec<Id> {
        let all = network.parameters();
        let at = |name: &&str| all.iter().position(|parameter| parameter.name == **name);
        names
            .iter()
            .map(|name| Id::Network(at(name).unwrap()))
            .collect()
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        let numbers = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        numbers.into_iter().map(f32::to_bits).collect()
    }

    fn of_network(network: &Network) -> Vec<(String, Vec<u32>)> {
        let named = network.parameters().iter().enumerate();
        named
            .map(|(i, parameter)| (parameter.name.clone(), bits(network.tensor(i))))
            .collect()
    }

    const WEIGHTS: [&str; 2] = ["conv.weight", "fc.weight"];
    const VECTORS: [&str; 4] = ["conv.bias", "norm.weight", "norm.bias", "fc.bias"];

    #[test]
    fn what_is_in_no_group_or_in_two_is_named() {
        let network = network();
        let mask = Var::zeros(4, DType::F32, &Device::Cpu).unwrap();
        let own = [("mask", &mask)];
        let refused = |groups: Vec<Group>| {
            Optimizer::new(&network, &own, groups)
                .unwrap_err()
                .to_string()
        };
        let weights = Group::new("weights", ids(&network, &WEIGHTS), Sgd::default(), 5e-4);
        let vectors = Group::new("vectors", ids(&network, &VECTORS), Sgd::default(), 0.0);
        let masks = Group::new("masks", [Id::Own(0)], Adamax::default(), 0.0);
        let sound = vec![weights.clone(), vectors.clone(), masks.clone()];
        Optimizer::new(&network, &own, sound.clone()).unwrap();
        let frozen = Group::frozen([Id::Own(0)]);
        Optimizer::new(
            &network,
            &own,
            vec![weights.clone(), vectors.clone(), frozen],
        )
        .unwrap();
        assert_eq!(
            refused(vec![weights.clone(), masks.clone()]),
            "conv.bias: is in no group of the optimiser, nor listed as frozen"
        );
        assert_eq!(
            refused(vec![weights.clone(), vectors.clone()]),
            "mask: is in no group of the optimiser, nor listed as frozen"
        );
        let changed = |change: &dyn Fn(&mut Vec<Group>)| {
            let mut groups = sound.clone();
            change(&mut groups);
            refused(groups)
        };
        assert_eq!(
            changed(&|groups| groups[2].members.push(ids(&network, &["fc.bias"])[0])),
            "fc.bias: is in the groups vectors and masks"
        );
        assert_eq!(
            changed(&|groups| groups[2].members.push(Id::Own(0))),
            "mask: is in the group masks twice"
        );
        assert_eq!(
            changed(&|groups| groups[1]
                .members
                .extend(ids(&network, &["norm.running_mean"]))),
            "norm.running_mean: is in the group vectors, and is not trained"
        );
        assert_eq!(
            changed(&|groups| groups[0].members.push(Id::Own(1))),
            "optimizer: group weights: there is no Own(1)"
        );
        assert_eq!(
            changed(&|groups| groups[1].name = "weights".into()),
            "optimizer: two groups are called weights"
        );
        assert_eq!(
            changed(&|groups| groups[0].decay = -1.0),
            "optimizer.weights.decay: expected 0 to 1000000, got -1"
        );
    }

    /// Each group as if it were alone, by the sweeps of `dcff-nn`; what is frozen keeps its bits.
    #[test]
    fn groups_have_their_own_rule_rate_and_decay() {
        let mut network = network();
        let gradients = gradients(&mut network);
        let id = |name: &str| match ids(&network, &[name])[0] {
            Id::Network(i) => i,
            Id::Own(_) => unreachable!("of the network"),
        };
        let before = of_network(&network);
        let mask = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        let pull = Tensor::new(&[0.5f32, 0.25], &Device::Cpu).unwrap();
        let copies =
            ["conv.weight", "fc.weight"].map(|name| network.tensor(id(name)).copy().unwrap());
        let groups = vec![
            Group::new("weights", ids(&network, &WEIGHTS[..1]), Sgd::default(), 0.1),
            Group {
                rate: 0.5,
                ..Group::new(
                    "classifier",
                    ids(&network, &WEIGHTS[1..]),
                    AdamW::default(),
                    0.2,
                )
            },
            Group::frozen(ids(&network, &VECTORS)),
            Group::new("masks", [Id::Own(0)], Adamax::default(), 0.0),
        ];
        let mut optimizer = Optimizer::new(&network, &[("mask", &mask)], groups).unwrap();
        // One rate of SGD, three of AdamW, one of Adamax.
        assert_eq!(optimizer.begin(0.1).len(), 5);
        optimizer
            .apply(&network, &gradients, &[Some(pull)])
            .unwrap();

        let sgd = dcff_nn::SgdConfig {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.1,
            nesterov: false,
        };
        let zeros = copies[0].zeros_like().unwrap();
        let gradient = gradients.get(id("conv.weight")).unwrap();
        dcff_nn::sgd_step(&copies[0], &zeros, gradient, &sgd).unwrap();
        let adamw = dcff_nn::AdamConfig {
            lr: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.2,
            step: 1,
        };
        let [m, v] = [0; 2].map(|_| copies[1].zeros_like().unwrap());
        let gradient = gradients.get(id("fc.weight")).unwrap();
        dcff_nn::adamw_steps(&[[&copies[1], &m, &v, gradient]], &adamw, 0).unwrap();
        for (name, was) in before {
            let now = bits(network.tensor(id(&name)));
            match name.as_str() {
                "conv.weight" => assert_eq!(now, bits(&copies[0])),
                "fc.weight" => assert_eq!(now, bits(&copies[1])),
                _ => assert_eq!(now, was, "{name}"),
            }
        }
        // Adamax's first step is the rate, whatever the gradient's size.
        let moved = mask.to_vec1::<f32>().unwrap();
        assert!(
            (moved[0] - 0.9).abs() < 1e-6 && (moved[1] + 1.1).abs() < 1e-6,
            "{moved:?}"
        );
    }

    /// Interrupted after two steps and continued, a run of Adamax gives the bits of one that was not.
    #[test]
    fn what_is_saved_continues_to_the_same_bits() {
        let mask = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        let pull = Tensor::new(&[0.5f32, 0.25], &Device::Cpu).unwrap();
        let groups = |network: &Network| {
            vec![
                Group::whole(network.parameters(), Adamax::default(), 1e-4),
                Group::new("masks", [Id::Own(0)], AdamW::default(), 0.0),
            ]
        };
        let mut network = network();
        let mut optimizer = Optimizer::new(&network, &[("mask", &mask)], groups(&network)).unwrap();
        let step = |optimizer: &mut Optimizer, network: &mut Network| {
            let gradients = gradients(network);
            optimizer.begin(0.01);
            optimizer
                .apply(network, &gradients, &[Some(pull.clone())])
                .unwrap();
        };
        for _ in 0..2 {
            step(&mut optimizer, &mut network);
        }
        let saved: BTreeMap<String, Tensor> = optimizer
            .state(&network)
            .unwrap()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.copy().unwrap()))
            .collect();
        assert_eq!(
            saved
                .keys()
                .filter(|name| !name.starts_with("exp"))
                .collect::<Vec<_>>(),
            [
                "own.exp_avg/mask",
                "own.exp_avg_sq/mask",
                "steps/masks",
                "steps/weights"
            ]
        );
        let (weights, masked) = (network.state().unwrap(), mask.as_tensor().copy().unwrap());
        let weights = weights
            .into_iter()
            .map(|(name, tensor)| (name, tensor.copy().unwrap()))
            .collect();
        step(&mut optimizer, &mut network);
        let (expected, expected_mask) = (of_network(&network), bits(&mask));

        let mut network = self::network();
        network.load(&weights).unwrap();
        mask.set(&masked).unwrap();
        let mut optimizer = Optimizer::new(&network, &[("mask", &mask)], groups(&network)).unwrap();
        let missing = optimizer.load(&network, |name| {
            saved.get(name).filter(|_| name != "steps/weights").cloned()
        });
        assert_eq!(
            missing.unwrap_err().to_string(),
            "steps/weights: is missing"
        );
        optimizer
            .load(&network, |name| saved.get(name).cloned())
            .unwrap();
        step(&mut optimizer, &mut network);
        assert_eq!(
            (of_network(&network), bits(&mask)),
            (expected, expected_mask)
        );
    }

    #[test]
    fn groups_that_stay_keep_what_they_remember() {
        let mut network = network();
        let gradients = gradients(&mut network);
        let whole = |decay, rule: Rule| vec![Group::whole(network.parameters(), rule, decay)];
        let sgd = || Rule::from(Sgd::default());
        let mut optimizer = Optimizer::new(&network, &[], whole(0.1, sgd())).unwrap();
        let velocities = |optimizer: &Optimizer| -> Vec<(String, Vec<u32>)> {
            let state = optimizer.state(&network).unwrap().into_iter();
            state.map(|(name, tensor)| (name, bits(&tensor))).collect()
        };
        let zeros = velocities(&optimizer);
        assert_eq!(zeros[0].0, "velocity/conv.weight");
        optimizer.step(&network, &gradients, 0.1).unwrap();
        let moved = velocities(&optimizer);
        assert_ne!(moved, zeros);
        assert!(!optimizer.regroup(&network, whole(0.1, sgd())).unwrap());
        assert!(optimizer.regroup(&network, whole(0.2, sgd())).unwrap());
        assert_eq!(velocities(&optimizer), moved);
        let adamax = || Rule::from(Adamax::default());
        assert!(optimizer.regroup(&network, whole(0.2, adamax())).unwrap());
        assert!(optimizer.regroup(&network, whole(0.2, sgd())).unwrap());
        assert_eq!(velocities(&optimizer), zeros);
    }
}
