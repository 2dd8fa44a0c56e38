//! A method of one's own, in one file: every filter has a mask that is learned, pulled towards 0 by its absolute value, and
//! a small head reads the maps of a stage for a second loss.
//!
//! The sweep gives the gradients of filters, masks and tapped maps; candle's tape does the head. Masks and head are
//! variables of the method with an optimiser of their own.
//!
//! ```sh
//! cargo run --release -p dcff --example own_method
//! ```

use std::sync::atomic::AtomicBool;

use candle_core::{D, DType, Device, Tensor, Var};
use dcff::data::{SyntheticConfig, find, synthetic};
use dcff::models::{Architecture, Mode, Parameter, Seeds, View, Views};
use dcff::nn::{Features, LossValue};
use dcff::train::optimizers::Adamax;
use dcff::train::{
    Data, Decision, Description, Ending, EpochStart, Event, Filters, Group, Id, Method,
    MethodConfig, Pass, Plan, Recipe, Result, RunConfig, RunFolder, Saved, Setup, Stage, Step,
    Trainer,
};

/// The stage whose maps the head reads.
const TAP: &str = "layer2.2.relu2";
/// The weight of the head's loss.
const HEAD: f64 = 0.1;
/// The weight of the masks' absolute values.
const PULL: f64 = 1e-3;

/// Masks that are learned, and a head.
#[derive(Default)]
pub(crate) struct SoftMasks {
    /// By the name of their convolution, `[C]` each, and the head, `[C]`, last.
    variables: Vec<(String, Var)>,
    tap: usize,
    /// How batch norm behaves in a step.
    pub(crate) mode: Mode,
}

impl SoftMasks {
    fn views(&self) -> Views {
        let masks = self.variables.iter().filter(|(name, _)| name != "head");
        masks
            .map(|(layer, mask)| (layer.clone(), View::Mask(mask.as_detached_tensor())))
            .collect()
    }

    fn head(&self) -> &Var {
        &self.variables[self.variables.len() - 1].1
    }
}

impl Method for SoftMasks {
    fn plan(&self, full: &Architecture, recipe: &Recipe) -> Result<Plan> {
        Ok(Plan::whole(full.clone(), Filters::Computed, recipe))
    }

    fn describe(&self) -> Description {
        Description {
            label: "soft masks".into(),
            pipeline: Some("soft-masks".into()),
            sentence: "It was trained with masks that are learned".into(),
            ..Description::default()
        }
    }

    fn setup(&mut self, setup: &Setup<'_>) -> Result<()> {
        let device = setup.network.device();
        self.variables.clear();
        for (layer, conv) in setup.full.scored_convs() {
            let mask = Var::ones(setup.full.width(&conv.space), DType::F32, device)?;
            self.variables.push((layer.name.clone(), mask));
        }
        self.tap = setup.full.position(TAP).unwrap_or_default();
        let width = setup.full.shapes()?.output(self.tap).channels;
        let head = Var::from_tensor(&(Tensor::ones(width, DType::F32, device)? * 0.1)?)?;
        self.variables.push(("head".to_owned(), head));
        Ok(())
    }

    fn variables(&self) -> Vec<(String, Var)> {
        self.variables.clone()
    }

    fn groups(&self, parameters: &[Parameter], stage: &Stage) -> Vec<Group> {
        let mut groups = Group::all(parameters, &stage.recipe);
        let own = (0..self.variables.len()).map(Id::Own);
        groups.push(Group::new("masks", own, Adamax::default(), 0.0));
        groups
    }

    fn epoch_start(&mut self, _: &EpochStart<'_>) -> Result<Decision> {
        Ok(Decision {
            views: self.views(),
            ..Decision::default()
        })
    }

    fn step(&mut self, step: &mut Step<'_>) -> Result<LossValue> {
        let (views, taps) = (self.views(), [self.tap]);
        let pass = Pass {
            mode: self.mode,
            taps: &taps,
            ..Pass::train(&views)
        };
        let trace = step.forward(&pass, step.images)?;
        let loss = dcff::nn::cross_entropy(trace.logits(), step.labels, step.smoothing)?;
        let mut seeds = Seeds::from(loss.grad);

        // On candle's tape: (head . mean of the maps - 1)^2.
        let Some(maps) = trace.output(self.tap) else {
            return Ok(loss.value);
        };
        let maps = Var::from_tensor(&maps.to_nchw()?)?;
        let means = maps.flatten_from(2)?.mean(D::Minus1)?;
        let read = means
            .broadcast_mul(self.head().as_tensor())?
            .sum(D::Minus1)?;
        let second = ((read - 1.0)?.sqr()?.mean_all()? * HEAD)?;
        let gradients = second.backward()?;
        if let Some(gradient) = gradients.get(&maps) {
            seeds.taps.push((self.tap, Features::from_nchw(gradient)?));
        }
        if let Some(gradient) = gradients.get(self.head()) {
            step.own("head", gradient.clone())?;
        }

        let of_masks = step.backward(trace, &pass, seeds)?;
        for (layer, mask) in &self.variables {
            if let Some(gradient) = of_masks.get(layer) {
                let pull = (mask.as_detached_tensor().sign()? * PULL)?;
                step.own(layer, (gradient + pull)?)?;
            }
        }
        Ok(loss.value)
    }

    fn evaluation(&self) -> Result<Option<Views>> {
        Ok(Some(self.views()))
    }

    fn save(&self) -> Result<Saved> {
        let tensors = self.variables.iter();
        Ok(Saved {
            tensors: tensors
                .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
                .collect(),
            ..Saved::default()
        })
    }

    fn load(&mut self, saved: &Saved) -> Result<()> {
        for (name, var) in &self.variables {
            if let Some(tensor) = saved.tensors.get(name) {
                var.set(&tensor.to_device(var.device())?)?;
            }
        }
        Ok(())
    }
}

#[allow(unreachable_pub, missing_docs, reason = "the tests run it, too")]
pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let info = find("synthetic")?;
    let splits = synthetic(&SyntheticConfig {
        train: 60,
        test: 20,
        seed: 1,
    })?;
    let data = Data::new(splits, info.normalisation.clone(), info.augmentation);
    let source = data.config("synthetic", 0.0);
    let recipe = Recipe {
        batch_size: 20,
        ..Recipe::quick(2)
    };
    let method = MethodConfig::named("soft-masks");
    let config = RunConfig::new("resnet20", 1, source, method, recipe);
    let full = dcff::models::by_name("resnet20")?.with_classes(data.train.classes().len());
    let scratch = tempfile::tempdir()?;
    let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
    let builder = Trainer::builder(folder, config, &full, &data, &Device::Cpu);
    let mut trainer = builder.method(Box::new(SoftMasks::default())).build()?;
    let ending = trainer.run(&mut |_: &Event<'_>| {}, &AtomicBool::new(false))?;
    let Ending::Finished(summary) = ending else {
        return Err("nobody asked it to stop".into());
    };
    println!("test accuracy {:.3}", summary.last.test.accuracy);
    Ok(())
}
