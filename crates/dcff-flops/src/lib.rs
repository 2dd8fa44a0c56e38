//! Operations and parameters of an architecture, counted to the integer.
//!
//! A count means nothing without its convention, so every [`CostTable`] names it:
//!
//! - [`Convention::Macs`], the field's usual one: multiply-accumulates of convolutions and linear layers;
//!   biases, batch norm, activations and pooling cost nothing.
//! - [`Convention::Published`], the one behind the table of arXiv 2107.06916: convolution
//!   `out_numel * (C_in/groups * K*K + [bias])`, batch norm `2 * in_numel`, linear `in * out`, average pooling
//!   `out_numel`, global average pooling `C * (H*W + 1)` — the latter only in the compact network, because the
//!   published full ResNets pool by a function that their counter does not see.
//!
//! Both count one image. Parameters are convolution weights and biases, batch norm's scale and shift, linear
//! weights and biases, under either convention; running statistics are not parameters. A multiply-accumulate is
//! never called a FLOP here.
//!
//! This crate deliberately does not know tensors: it never runs a forward pass.
//!
//! ```
//! use dcff_flops::{Convention, Form, cost};
//!
//! let vgg = dcff_models::by_name("vgg16")?;
//! assert_eq!(cost(&vgg, Convention::Published, Form::Full)?.ops(), 314_031_616);
//! assert_eq!(cost(&vgg, Convention::Macs, Form::Full)?.ops(), 313_201_664);
//! # Ok::<(), dcff_models::Error>(())
//! ```

mod budget;
mod masked;

pub use budget::{Budget, BudgetError, Measure, Target, even_keys};
use dcff_models::shapes::{Shape, Shapes};
use dcff_models::{Architecture, Layer, LayerKind, Result};
pub use masked::{Counting, MaskedCost};
use serde::Serialize;

/// What counts as an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convention {
    /// Multiply-accumulates of convolutions and linear layers.
    Macs,
    /// The counter behind the published table of DCFF.
    Published,
}

impl Convention {
    /// All conventions with the name users type and one line of help.
    pub const ALL: [(Self, &'static str, &'static str); 2] = [
        (
            Self::Macs,
            "macs",
            "multiply-accumulates of convolutions and linear layers",
        ),
        (
            Self::Published,
            "published",
            "the counter behind the DCFF paper's table: biases, batch norm and pooling included",
        ),
    ];

    /// The name users type.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(convention, ..)| *convention == self)
            .map_or("", |(_, name, _)| name)
    }
}

/// Which of the two networks is counted; the published counter treats global pooling differently in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The network before compression.
    Full,
    /// The narrow network.
    Compact,
}

/// The cost of one layer for one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// The module path.
    pub name: String,
    /// `conv`, `norm`, `linear`, `offset`, `avg_pool` or `global_avg_pool`.
    pub kind: &'static str,
    /// Output channels, height and width.
    pub output: [usize; 3],
    /// Operations under the table's convention.
    pub ops: u64,
    /// Trained parameters.
    pub params: u64,
}

/// The costs of an architecture's layers; layers that cost nothing are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CostTable {
    /// What counts as an operation here.
    pub convention: Convention,
    /// The layers in the order of computation.
    pub layers: Vec<LayerCost>,
}

impl CostTable {
    /// Operations for one image.
    pub fn ops(&self) -> u64 {
        self.layers.iter().map(|layer| layer.ops).sum()
    }

    /// Trained parameters.
    pub fn params(&self) -> u64 {
        self.layers.iter().map(|layer| layer.params).sum()
    }
}

/// Counts `architecture` layer by layer.
///
/// # Errors
/// When the architecture is unsound.
pub fn cost(
    architecture: &Architecture,
    convention: Convention,
    network: Form,
) -> Result<CostTable> {
    let shapes = architecture.shapes()?;
    let layers = architecture.layers.iter().enumerate();
    let layers = layers
        .filter_map(|(position, layer)| layer_cost(layer, position, &shapes, convention, network))
        .collect();
    Ok(CostTable { convention, layers })
}

/// Counts `full` beside `compact`, its compact form.
///
/// A form that is no narrower is the full network and is counted as it: the published counter would otherwise find more
/// operations in it, for the pooling that it sees in compact networks only.
///
/// # Errors
/// When an architecture is unsound.
pub fn costs(
    full: &Architecture,
    compact: &Architecture,
    convention: Convention,
) -> Result<[CostTable; 2]> {
    let network = match full.widths() == compact.widths() {
        true => Form::Full,
        false => Form::Compact,
    };
    Ok([
        cost(full, convention, Form::Full)?,
        cost(compact, convention, network)?,
    ])
}

fn layer_cost(
    layer: &Layer,
    position: usize,
    shapes: &Shapes,
    convention: Convention,
    network: Form,
) -> Option<LayerCost> {
    let (x, y) = (shapes.inputs(position)[0], shapes.output(position));
    let published = convention == Convention::Published;
    let (kind, ops, params) = match &layer.kind {
        LayerKind::Conv(conv) => {
            let depth = x.channels / conv.groups.of(x.channels);
            let window = count(&[depth, conv.kernel, conv.kernel]);
            let bias = u64::from(conv.bias);
            let ops = numel(y) * (window + if published { bias } else { 0 });
            ("conv", ops, y.channels as u64 * (window + bias))
        }
        LayerKind::Norm(_) => (
            "norm",
            if published { 2 * numel(x) } else { 0 },
            2 * x.channels as u64,
        ),
        LayerKind::Linear(linear) => {
            let ops = numel(x) * linear.features as u64;
            (
                "linear",
                ops,
                ops + if linear.bias {
                    linear.features as u64
                } else {
                    0
                },
            )
        }
        // Additions, like biases; its numbers are parameters.
        LayerKind::Offset(offset) => {
            let [rows, columns] = offset.border().places();
            let numbers = count(&[x.channels, rows, columns]);
            ("offset", if published { numel(y) } else { 0 }, numbers)
        }
        LayerKind::AvgPool(_) if published => ("avg_pool", numel(y), 0),
        LayerKind::GlobalAvgPool if published && network == Form::Compact => (
            "global_avg_pool",
            x.channels as u64 * (count(&[x.height, x.width]) + 1),
            0,
        ),
        _ => return None,
    };
    Some(LayerCost {
        name: layer.name.clone(),
        kind,
        output: [y.channels, y.height, y.width],
        ops,
        params,
    })
}

fn numel(shape: Shape) -> u64 {
    count(&[shape.channels, shape.height, shape.width])
}

fn count(dims: &[usize]) -> u64 {
    dims.iter().map(|&d| d as u64).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcff_models::{Builder, INPUT, Initialisation, by_name};

    #[test]
    fn counts_follow_from_the_dimensions() {
        let mut b = Builder::new("tiny", [3, 8, 8], Initialisation::Uniform);
        b.space("conv", 4);
        let x = b.conv("conv", "conv", [3, 2, 1], true, INPUT);
        let x = b.norm("norm", &x);
        let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
        b.linear("fc", 10, &x);
        let tiny = b.finish();
        let ops = |convention, network| {
            let table = cost(&tiny, convention, network).unwrap();
            table
                .layers
                .iter()
                .map(|l| (l.name.clone(), l.ops, l.params))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, ops: u64, params: u64| (name.to_owned(), ops, params);
        // 4 filters of 3x3x3 over 4x4 pixels; 27 weights and a bias each.
        let (conv, fc) = (4 * 16 * 27, 40);
        assert_eq!(
            ops(Convention::Macs, Form::Full),
            [row("conv", conv, 112), row("norm", 0, 8), row("fc", fc, 50)]
        );
        assert_eq!(
            ops(Convention::Published, Form::Compact),
            [
                row("conv", 4 * 16 * 28, 112),
                row("norm", 2 * 4 * 16, 8),
                row("pool", 4 * 17, 0),
                row("fc", fc, 50)
            ]
        );
        assert_eq!(ops(Convention::Published, Form::Full).len(), 3);
    }

    #[test]
    fn a_network_that_is_not_narrowed_saves_nothing() {
        for name in ["resnet20", "vgg16"] {
            let full = by_name(name).unwrap();
            for (convention, ..) in Convention::ALL {
                let [a, b] = costs(&full, &full, convention).unwrap();
                assert_eq!(a, b);
                let mut widths = full.widths();
                widths[0] -= 1;
                let narrow = full.narrowed(&widths).unwrap();
                // As the published counter has it, pooling included.
                assert_eq!(
                    costs(&full, &narrow, convention).unwrap(),
                    [a, cost(&narrow, convention, Form::Compact).unwrap()]
                );
            }
        }
    }

    #[test]
    fn mobilenets_cost_what_their_authors_count() {
        // 568,790,528 and 300,836,992 with 49 additions for each channel of the average pool, which are no products here.
        for (name, macs, channels) in [
            ("mobilenet-v1", 568_790_528, 1024),
            ("mobilenet-v2", 300_836_992, 1280),
        ] {
            let table = cost(&by_name(name).unwrap(), Convention::Macs, Form::Full).unwrap();
            assert_eq!(table.ops() + 49 * channels, macs, "{name}");
        }
    }

    #[test]
    fn vgg16_with_published_widths_costs_what_the_paper_prints() {
        let full = by_name("vgg16").unwrap();
        let compact = full
            .narrowed(&[32, 32, 76, 76, 166, 166, 166, 76, 76, 76, 76, 76, 76])
            .unwrap();
        let table = cost(&compact, Convention::Published, Form::Compact).unwrap();
        // Printed as 72.77 M and 1.06 M: 72,349,240 MACs, 140,880 additions of biases, 281,760 of batch norm, 76 of pooling.
        assert_eq!((table.ops(), table.params()), (72_771_956, 1_071_248));
        assert_eq!(
            cost(&compact, Convention::Macs, Form::Compact)
                .unwrap()
                .ops(),
            72_349_240
        );
    }
}
