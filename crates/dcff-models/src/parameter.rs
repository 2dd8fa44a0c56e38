//! One tensor of a network: its name, shape and kind.

/// What a tensor of a network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// `[C_out, C_in/groups, K, K]`.
    ConvWeight,
    /// `[C_out]`.
    ConvBias,
    /// Batch norm's scale, `[C]`.
    NormWeight,
    /// Batch norm's shift, `[C]`.
    NormBias,
    /// `[features, C*H*W]`.
    LinearWeight,
    /// `[features]`.
    LinearBias,
    /// What is added to maps, `[C, R, S]`.
    Offset,
    /// Batch norm's running mean, `[C]`; not trained.
    RunningMean,
    /// Batch norm's running variance, `[C]`; not trained.
    RunningVar,
}

impl ParameterKind {
    /// Whether gradient descent changes it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }

    /// Whether a view chooses what of it is used: a convolution's filters and their biases.
    pub(crate) fn is_filters(self) -> bool {
        matches!(self, Self::ConvWeight | Self::ConvBias)
    }

    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::ConvWeight | Self::NormWeight | Self::LinearWeight => "weight",
            Self::ConvBias | Self::NormBias | Self::LinearBias | Self::Offset => "bias",
            Self::RunningMean => "running_mean",
            Self::RunningVar => "running_var",
        }
    }
}

/// One tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// PyTorch's state-dict key, for example `layer1.0.conv1.weight`.
    pub name: String,
    /// The position of its layer in the architecture.
    pub layer: usize,
    /// What it is for.
    pub kind: ParameterKind,
    /// Its shape.
    pub shape: Vec<usize>,
}
