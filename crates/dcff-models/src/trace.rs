//! What a pass leaves behind, and what the sweep gives back.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use dcff_nn::{BatchStatistics, Convolution, Features, Filters, MaxIndices, Precision};

use crate::parameter::Parameter;
use crate::profile::Profile;
use crate::{Result, internal};

/// The images, or the output of the layer at a position.
pub(crate) type Value = Option<usize>;

/// How batch norm behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch; everything the backward sweep needs is kept.
    #[default]
    Train,
    /// Running statistics; maps are dropped after their last use.
    Eval,
    /// Running statistics as constants; everything the backward sweep needs is kept. The gradients are those of the
    /// network as it is evaluated. In training mode a filter's gradient is orthogonal to it, because batch norm undoes
    /// its length.
    Frozen,
}

/// How a pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct How<'a> {
    /// How batch norm behaves, and what is kept.
    pub mode: Mode,
    /// What feature maps and their gradients are stored in. Parameters, their gradients, statistics and logits are always `f32`.
    pub precision: Precision,
    /// Positions of layers whose outputs are kept, in [`Mode::Eval`] too.
    pub taps: &'a [usize],
    /// Where the time of every layer is booked.
    pub profile: Option<&'a Arc<Profile>>,
    /// Which algorithms convolutions may use on the CPU.
    pub convolution: Convolution,
}

impl From<Mode> for How<'_> {
    fn from(mode: Mode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// What a forward pass leaves behind for the backward sweep and for probes.
#[derive(Debug)]
pub struct Trace {
    pub(crate) image: Features,
    pub(crate) values: Vec<Option<Features>>,
    pub(crate) saved: Vec<Saved>,
    pub(crate) logits: Tensor,
    pub(crate) profile: Option<Arc<Profile>>,
    pub(crate) convolution: Convolution,
}

/// What a step keeps for its gradient.
#[derive(Debug)]
pub(crate) enum Saved {
    Nothing,
    Filters(Filters),
    Statistics(BatchStatistics),
    /// Running statistics, which do not depend on the batch.
    Constants(BatchStatistics),
    Indices(MaxIndices),
    Rows(Tensor),
}

impl Trace {
    /// The logits, `[N, classes]`.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// The output of the layer at `position`, where the pass kept it: that of a layer which was joined with the one behind it
    /// (a batch norm and its activation) does not exist.
    pub fn output(&self, position: usize) -> Option<&Features> {
        self.values.get(position).and_then(Option::as_ref)
    }

    pub(crate) fn value(&self, value: Value) -> Result<&Features> {
        match value {
            None => Ok(&self.image),
            Some(position) => self.values[position]
                .as_ref()
                .ok_or_else(|| internal("a value was dropped too early")),
        }
    }
}

/// Where a backward sweep starts, with the gradients of the loss there: at the logits, at outputs of layers, or both.
#[derive(Clone, Debug, Default)]
pub struct Seeds {
    /// Of the logits, `[N, classes]`.
    pub logits: Option<Tensor>,
    /// Of the outputs of the layers at these positions, `[N, C, H, W]` in any precision.
    pub taps: Vec<(usize, Features)>,
}

impl From<Tensor> for Seeds {
    fn from(logits: Tensor) -> Self {
        Self {
            logits: Some(logits),
            taps: Vec::new(),
        }
    }
}

/// The gradients of trained parameters, in the order of [`crate::Weights::parameters`] and of the parameters' full shapes.
///
/// Sweeps add to it. There is no `Clone`, because they do so in place.
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// No gradients yet, of `parameters`.
    pub fn new(parameters: &[Parameter]) -> Self {
        Self(vec![None; parameters.len()])
    }

    /// The gradient of the parameter at `index`; `None` for running statistics and for what no sweep has reached.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// The gradient of the parameter at `index`, to add the gradient of a penalty to.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Tensor> {
        self.0.get_mut(index).and_then(Option::as_mut)
    }

    /// Adds gradients of the leading parts of `parameters`, in as few launches as possible.
    pub(crate) fn add(
        &mut self,
        parameters: &[Parameter],
        parts: Vec<(usize, Tensor)>,
    ) -> Result<()> {
        let mut more = Vec::new();
        for (index, part) in parts {
            let mut whole = part;
            for (axis, &size) in parameters[index].shape.iter().enumerate() {
                let rest = size - whole.dim(axis)?;
                if rest > 0 {
                    whole = whole.pad_with_zeros(axis, 0, rest)?;
                }
            }
            match &self.0[index] {
                None => self.0[index] = Some(whole),
                Some(_) => more.push((index, whole)),
            }
        }
        let blends: Vec<dcff_nn::Blend<'_>> = more
            .iter()
            .filter_map(|(index, new)| {
                Some(dcff_nn::Blend {
                    old: self.0[*index].as_ref()?,
                    new,
                    keep: 1.0,
                    add: 1.0,
                })
            })
            .collect();
        Ok(dcff_nn::blend(&blends)?)
    }
}

/// The gradients of views that can be trained, by layer: that of a mask `m [C]` is `[C]`.
#[derive(Clone, Debug, Default)]
pub struct ViewGradients(BTreeMap<String, Tensor>);

impl ViewGradients {
    /// The gradient of the view of the convolution called `layer`.
    pub fn get(&self, layer: &str) -> Option<&Tensor> {
        self.0.get(layer)
    }

    /// All of them, by layer name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(layer, t)| (layer.as_str(), t))
    }

    pub(crate) fn insert(&mut self, layer: &str, gradient: Tensor) {
        self.0.insert(layer.to_owned(), gradient);
    }
}
