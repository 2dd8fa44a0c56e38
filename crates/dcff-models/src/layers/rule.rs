//! What an architecture must know of a kind of layer.

use candle_core::Tensor;
use dcff_nn::Activation;

use super::operation::Operation;
use crate::Result;
use crate::parameter::ParameterKind;
use crate::shape::Shape;
use crate::spaces::Spaces;
use crate::view::View;

/// What an architecture must know of a layer: shapes, parameters, channels, and the step that computes it.
///
/// Messages of errors need no name: whoever asks puts the layer's in front.
pub(crate) trait Rule {
    /// How many inputs it reads; `None` for one or more.
    fn inputs(&self) -> Option<usize> {
        Some(1)
    }

    /// The shape of its output.
    fn shape(&self, spaces: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String>;

    /// Its tensors' kinds and shapes, where it reads maps of `input`, for the network that keeps the filters of the first spaces and
    /// computes the widths of the second.
    fn parameters(
        &self,
        _spaces: [Spaces<'_>; 2],
        _input: Shape,
    ) -> Vec<(ParameterKind, Vec<usize>)> {
        Vec::new()
    }

    /// The channel space of its output, where that has one, from the one of its first input.
    fn space<'a>(&'a self, read: Option<&'a str>) -> Option<&'a str> {
        read
    }

    /// Whether the channels it reads run on into another space, in the middle of the wider one's.
    fn runs_on(&self) -> bool {
        false
    }

    /// The channels of its output that are left in a narrow network, as indices of the wide one.
    fn kept(&self, channels: &KeptChannels<'_>) -> Result<Vec<usize>, String> {
        Ok(channels.read[0].clone())
    }

    /// Takes what a narrow network keeps of its tensors.
    fn select(&self, _selection: &mut Selection<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether it has parameters that depend on the channels it reads; an error where the first ones of a wide layer's are not those of
    /// a narrow one. Shapes are those of the input and of the output, narrow and wide.
    fn leads(&self, _input: [Shape; 2], _output: [Shape; 2]) -> Result<bool, String> {
        Ok(false)
    }

    /// Whether its output's channels lie side by side from several layers, where its input's do or not.
    fn joined(&self, reads_joined: bool) -> bool {
        reads_joined
    }

    /// The step that computes it; `None` where the addition behind it does so.
    fn plan(&self, planner: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>>;
}

/// What is left of the channels around a layer when spaces keep some of theirs.
pub(crate) struct KeptChannels<'a> {
    /// Of each of its inputs.
    pub(crate) read: Vec<Vec<usize>>,
    /// Of the spaces, by name.
    pub(crate) space: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The wide shapes that it reads, and that it writes.
    pub(crate) inputs: &'a [Shape],
    pub(crate) output: Shape,
}

impl KeptChannels<'_> {
    /// Those of the space called `name`.
    pub(crate) fn of(&self, name: &str) -> Result<Vec<usize>, String> {
        (self.space)(name).ok_or_else(|| "writes to a space without kept channels".to_owned())
    }
}

/// Replaces the tensor with a suffix by what a function makes of it.
type Change<'a> = dyn FnMut(&str, &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> + 'a;

/// A layer's tensors, of which a narrow network keeps a part.
pub(crate) struct Selection<'a> {
    /// The channels that are left of what it reads and writes.
    pub(crate) input: &'a [usize],
    pub(crate) output: &'a [usize],
    /// The wide shape that it reads.
    pub(crate) shape: Shape,
    pub(crate) view: &'a View,
    /// Replaces the tensor with a suffix, where there is one.
    pub(crate) change: &'a mut Change<'a>,
}

/// The entries `ids` of `tensor` along `dim`.
pub(crate) fn take(tensor: &Tensor, ids: &[usize], dim: usize) -> Result<Tensor> {
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    Ok(tensor.index_select(&Tensor::new(ids, tensor.device())?, dim)?)
}

/// What a layer's rule asks while the steps of an architecture are made: it stands at that layer.
pub(crate) trait Planner {
    /// The shape that the layer writes.
    fn shape(&self) -> Shape;

    /// The shape that the layer reads first.
    fn input_shape(&self) -> Shape;

    /// The position in the network's list of the tensor of a kind.
    ///
    /// # Errors
    /// When the layer has none.
    fn find(&self, kind: ParameterKind) -> Result<usize>;

    /// The activation that alone reads the layer; the step then yields its output.
    fn activation(&mut self) -> Activation;

    /// Whether the layer, a norm, is left to the addition that alone reads it. An addition takes the norm that it reads first; a second
    /// one is computed on its own.
    fn waits_for_addition(&mut self) -> bool;

    /// The step of the norm that waits for the layer, an addition, which is done together with it and with what follows; its second
    /// input is the other one of the addition.
    fn waiting_norm(&mut self, activation: Activation) -> Result<Option<Box<dyn Operation>>>;
}
