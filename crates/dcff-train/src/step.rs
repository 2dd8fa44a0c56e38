//! One batch of a run, as a method sees it.

use std::collections::BTreeMap;

use candle_core::Tensor;
use dcff_models::{Blend, Gradients, Mode, Network, Program, Seeds, Trace, ViewGradients, Views};
use dcff_nn::LossValue;

use crate::distillation::Teacher;
use crate::error::Result;
use crate::seed::{Purpose, derive_seed};

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Counted from 0.
    pub epoch: usize,
    /// Of the run.
    pub epochs: usize,
    /// Of the epoch, counted from 0.
    pub step: usize,
    /// Of an epoch.
    pub steps: usize,
}

/// One way through the network.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'p> {
    /// How the convolutions see their filters.
    pub views: &'p Views,
    /// Other widths, or another size of the images, over the same weights; `None` for the network's own.
    pub program: Option<&'p Program>,
    /// How batch norm behaves.
    pub mode: Mode,
    /// Positions of layers whose outputs are kept.
    pub taps: &'p [usize],
    /// How the running statistics move in [`Mode::Train`].
    pub statistics: Blend,
}

impl<'p> Pass<'p> {
    /// A training pass through `views`.
    pub fn train(views: &'p Views) -> Self {
        Self {
            views,
            program: None,
            mode: Mode::Train,
            taps: &[],
            statistics: Blend::Momentum,
        }
    }
}

/// A batch, the network, and the gradients that the method's passes add up.
#[derive(Debug)]
pub struct Step<'a> {
    /// Normalised images `[N, C, H, W]`.
    pub images: &'a Tensor,
    /// Labels `[N]` (`u32`).
    pub labels: &'a Tensor,
    /// How far the run is.
    pub at: Progress,
    /// The epoch's views.
    pub views: &'a Views,
    /// The network that is trained.
    pub network: &'a mut Network,
    /// The share of a label's probability spread over all classes.
    pub smoothing: f64,
    teacher: Option<&'a Teacher>,
    seed: u64,
    gradients: Gradients,
    own: BTreeMap<String, Tensor>,
}

/// The gradients of a step.
#[derive(Debug)]
pub struct StepGradients {
    /// Of the network's parameters.
    pub network: Gradients,
    /// Of the method's own variables, by name.
    pub own: BTreeMap<String, Tensor>,
}

impl<'a> Step<'a> {
    /// A step that has no gradients yet, of the run whose method is seeded with `seed`.
    pub fn new(
        network: &'a mut Network,
        views: &'a Views,
        (images, labels): (&'a Tensor, &'a Tensor),
        smoothing: f64,
        at: Progress,
        seed: u64,
    ) -> Self {
        Self {
            images,
            labels,
            at,
            views,
            smoothing,
            teacher: None,
            seed,
            gradients: Gradients::new(network.parameters()),
            network,
            own: BTreeMap::new(),
        }
    }

    /// The same with a teacher, whose answers are learned beside the labels.
    #[must_use]
    pub fn taught_by(self, teacher: Option<&'a Teacher>) -> Self {
        Self { teacher, ..self }
    }

    /// The seed of this step's random stream number `index`: the same in a run that was interrupted.
    pub fn seed(&self, index: u64) -> u64 {
        let step = (self.at.epoch * self.at.steps + self.at.step) as u64;
        derive_seed(
            derive_seed(self.seed, Purpose::Step, step),
            Purpose::Step,
            index,
        )
    }

    /// The images with `side` x `side` pixels, resized bilinearly with corners aligned.
    ///
    /// # Errors
    /// Those of the device.
    pub fn images_at(&self, side: usize) -> Result<Tensor> {
        Ok(dcff_nn::resize(self.images, side)?)
    }

    /// One training pass with cross-entropy through the epoch's views, and the run's teacher where it has one: running statistics
    /// move, gradients are added. The loss that comes back is cross-entropy alone.
    ///
    /// # Errors
    /// A teacher's term that is not finite, and those of the device.
    pub fn cross_entropy(&mut self) -> Result<LossValue> {
        let pass = Pass::train(self.views);
        let trace = self.forward(&pass, self.images)?;
        let loss = dcff_nn::cross_entropy(trace.logits(), self.labels, self.smoothing)?;
        let gradient = match self.teacher {
            Some(teacher) => (loss.grad + teacher.pull(self.images, trace.logits())?)?,
            None => loss.grad,
        };
        self.backward(trace, &pass, gradient.into())?;
        Ok(loss.value)
    }

    /// A pass over `images` `[N, C, H, W]`; in [`Mode::Train`] running statistics move as the pass says.
    ///
    /// # Errors
    /// When the images' size is not the program's, a view's width not that of its layer, or the device fails.
    pub fn forward(&mut self, pass: &Pass<'_>, images: &Tensor) -> Result<Trace> {
        let mut how = self.network.how(pass.mode);
        how.taps = pass.taps;
        let program = match pass.program {
            Some(program) => program,
            None => {
                self.network.check_views(pass.views)?;
                self.network.program()
            }
        };
        let trace = program.forward(self.network.weights(), pass.views, images, &how)?;
        if pass.mode == Mode::Train {
            match pass.program {
                Some(program) => {
                    program.update_statistics(
                        self.network.weights_mut(),
                        &trace,
                        pass.statistics,
                    )?;
                }
                None => self.network.move_statistics(&trace, pass.statistics)?,
            }
        }
        Ok(trace)
    }

    /// Adds the gradients of the pass that left `trace`, from those of its logits and taps; the gradients of its views come back.
    ///
    /// # Errors
    /// When the pass was an evaluation, or the device fails.
    pub fn backward(
        &mut self,
        trace: Trace,
        pass: &Pass<'_>,
        seeds: Seeds,
    ) -> Result<ViewGradients> {
        let program = pass.program.unwrap_or_else(|| self.network.program());
        let weights = self.network.weights();
        Ok(program.backward(weights, pass.views, trace, seeds, &mut self.gradients)?)
    }

    /// Adds `gradient` to that of the method's own variable `name`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn own(&mut self, name: &str, gradient: Tensor) -> Result<()> {
        let sum = match self.own.remove(name) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.own.insert(name.to_owned(), sum);
        Ok(())
    }

    /// The network, and the gradients so far, for penalties on parameters.
    pub fn gradients_mut(&mut self) -> (&Network, &mut Gradients) {
        (self.network, &mut self.gradients)
    }

    /// The gradients of all passes.
    pub fn into_gradients(self) -> StepGradients {
        StepGradients {
            network: self.gradients,
            own: self.own,
        }
    }
}

/// What a pass computed.
#[derive(Debug)]
pub struct StepOutput {
    /// The mean loss of the batch, and how many images were classified rightly.
    pub loss: LossValue,
    /// The gradients.
    pub gradients: Gradients,
}

/// One training pass with cross-entropy, and its gradients; running statistics move.
///
/// # Errors
/// Those of the device.
pub fn cross_entropy_step(
    network: &mut Network,
    views: &Views,
    images: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> Result<StepOutput> {
    let batch = (images, labels);
    let mut step = Step::new(network, views, batch, smoothing, Progress::default(), 0);
    let loss = step.cross_entropy()?;
    Ok(StepOutput {
        loss,
        gradients: step.gradients,
    })
}
