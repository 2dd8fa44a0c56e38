//! Latency as a table has it: the plain sum over a network's blocks.
//!
//! The blocks are those of the authors' program: a convolution, a depthwise one with the 1x1 behind it (`MBV1Block`), an inverted
//! residual (`MBV2Block`) and the linear layer. Pooling, sums and resizing are in none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use dcff_models::{Architecture, Groups, LayerKind};
use dcff_nn::Activation;

use crate::error::{Error, Result};

/// The columns of a table.
const COLUMNS: &str = "block_type,in_size,cin,cout,cmid,kernel_size,stride,padding,us";
/// More than any table needs.
const MAX_BYTES: u64 = 64 << 20;

/// A part of a network that a table knows the time of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: &'static str,
    /// Height and width of the maps that it reads.
    pub side: usize,
    /// Channels that it reads and writes.
    pub channels: [usize; 2],
    /// Channels inside an inverted residual.
    pub inside: Option<usize>,
    /// Of a convolution.
    pub kernel: Option<usize>,
    /// Of a convolution, or of the depthwise one inside.
    pub stride: Option<usize>,
    /// Of a convolution.
    pub padding: Option<usize>,
}

/// As the table's first columns have it.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [read, written] = self.channels;
        write!(f, "{},{},{read},{written}", self.kind, self.side)?;
        for part in [self.inside, self.kernel, self.stride, self.padding] {
            match part {
                Some(number) => write!(f, ",{number}")?,
                None => f.write_str(",")?,
            }
        }
        Ok(())
    }
}

/// The blocks of `architecture`, in their order.
///
/// # Errors
/// When it is unsound, or has a depthwise convolution that no 1x1 one follows.
pub fn blocks(architecture: &Architecture) -> Result<Vec<Block>> {
    let shapes = architecture.shapes()?;
    let positions = architecture.layers.iter().enumerate();
    let convs: Vec<_> = positions
        .filter_map(|(at, layer)| match &layer.kind {
            LayerKind::Conv(conv) => Some((at, conv)),
            _ => None,
        })
        .collect();
    let apart = |i: usize| {
        let conv = convs.get(i).map(|(_, conv)| conv);
        conv.is_some_and(|conv| conv.groups == Groups::Depthwise)
    };
    let mut blocks = Vec::new();
    let mut i = 0;
    while let Some(&(at, conv)) = convs.get(i) {
        let reads = shapes.inputs(at)[0];
        let widens = !apart(i) && conv.kernel == 1 && apart(i + 1);
        if !apart(i) && !widens {
            blocks.push(Block {
                kind: "Conv2d",
                side: reads.height,
                channels: [reads.channels, shapes.output(at).channels],
                inside: None,
                kernel: Some(conv.kernel),
                stride: Some(conv.stride),
                padding: Some(conv.padding),
            });
            i += 1;
            continue;
        }
        let depthwise = i + usize::from(widens);
        let (_, middle) = convs[depthwise];
        let last = depthwise + 1;
        let end = convs
            .get(last)
            .filter(|(_, conv)| conv.kernel == 1 && !apart(last));
        let &(end, _) = end.ok_or_else(|| {
            let name = &architecture.layers[convs[depthwise].0].name;
            Error::setting(
                "latency",
                format!("{name}: expected a 1x1 convolution behind a depthwise one"),
            )
        })?;
        let inside = shapes.inputs(end)[0].channels;
        let linear = architecture.activation_after(&architecture.layers[end].name);
        let inverted = widens || linear == Activation::Identity;
        blocks.push(Block {
            kind: if inverted { "MBV2Block" } else { "MBV1Block" },
            side: reads.height,
            channels: [reads.channels, shapes.output(end).channels],
            inside: inverted.then_some(inside),
            kernel: None,
            stride: Some(middle.stride),
            padding: None,
        });
        i = last + 1;
    }
    for (at, layer) in architecture.layers.iter().enumerate() {
        if let LayerKind::Linear(linear) = &layer.kind {
            let reads = shapes.inputs(at)[0];
            blocks.push(Block {
                kind: "Linear",
                side: reads.height,
                channels: [reads.channels, linear.features],
                inside: None,
                kernel: None,
                stride: None,
                padding: None,
            });
        }
    }
    Ok(blocks)
}

/// Microseconds by block.
#[derive(Clone, Debug, Default)]
pub struct LatencyTable(BTreeMap<String, f64>);

impl LatencyTable {
    /// Reads a CSV file: a block's type, sizes and time in a row, cells that it has no use for empty.
    ///
    /// # Errors
    /// With the file, and the line where it is unsound.
    pub fn read(path: &Path) -> Result<Self> {
        let text = dcff_file::read(path, MAX_BYTES)?;
        let text = String::from_utf8(text).map_err(|error| Error::file(path, error))?;
        let mut lines = text.lines();
        if lines.next() != Some(COLUMNS) {
            return Err(Error::file(path, format!("expected the columns {COLUMNS}")));
        }
        let mut table = BTreeMap::new();
        for (number, line) in lines.enumerate() {
            let row = line.rsplit_once(',').and_then(|(block, time)| {
                let time: f64 = time.parse().ok()?;
                (time.is_finite() && time >= 0.0).then(|| (block.to_owned(), time))
            });
            let fail = |what: &str| {
                Error::file(path, format!("line {}: {what}, got '{line}'", number + 2))
            };
            let (block, time) = row.ok_or_else(|| fail("expected a block and a time"))?;
            if table.insert(block, time).is_some() {
                return Err(fail("expected every block once"));
            }
        }
        Ok(Self(table))
    }

    /// Microseconds of `blocks` in all.
    ///
    /// # Errors
    /// The first block that the table has no row for.
    pub fn predict(&self, blocks: &[Block]) -> Result<f64> {
        let times = blocks.iter().map(|block| {
            let key = block.to_string();
            self.0
                .get(&key)
                .copied()
                .ok_or_else(|| Error::setting("latency", format!("the table has no row for {key}")))
        });
        times.sum()
    }
}
