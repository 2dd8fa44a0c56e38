//! The ONNX form: one self-contained file.
//!
//! Opset 13 and IR version 7, the oldest with the operators in their present form: Conv, BatchNormalization, Relu, MaxPool, AveragePool,
//! GlobalAveragePool, Slice, Pad, Gather, Add, Concat, Flatten, Gemm. The batch is dynamic. The shortcut without parameters is a
//! strided Slice and a Pad along the channels. Field numbers are those of *onnx.proto*,
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>; operators are at <https://onnx.ai/onnx/operators/>.

use std::collections::HashSet;
use std::path::Path;

use candle_core::{DType, Tensor};
use dcff_models::{INPUT, LayerKind, Pool};
use dcff_nn::{Activation, Border};

use super::protobuf::Message;
use crate::{Artefact, Error, Result};

/// The name of the file.
pub const ONNX: &str = "model.onnx";
/// The version of the operators.
pub const OPSET: i64 = 13;

const IR_VERSION: i64 = 7;
/// The name of the logits, the only output; the only input is called as in the architecture, [`INPUT`].
const OUTPUT: &str = "logits";
/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
/// A protocol buffer cannot be larger.
const MAX_BYTES: usize = i32::MAX as usize;

/// The file's bytes: input `input` `[batch, C, H, W]`, output `logits` `[batch, classes]`.
///
/// `metadata_props` holds `preprocessing` (the `pretrained_cfg` of `config.json` as JSON), `labels` (a JSON list in the order
/// of the logits), `dcff_version` and `provenance`. The same artefact always gives the same bytes.
///
/// # Errors
/// When the file would be larger than a protocol buffer can be, 2 GiB.
pub fn onnx(artefact: &Artefact) -> Result<Vec<u8>> {
    let config = &artefact.config;
    let mut graph = Graph::new(artefact)?;
    graph.layers(artefact)?;

    let cfg = &config.pretrained_cfg;
    let [c, h, w] = config.architecture.input.map(|d| d as i64);
    let graph = Message::new()
        .each(&graph.nodes, |m, node| m.message(1, node))
        .text(2, &config.architecture.name)
        .each(&graph.initializers, |m, tensor| m.message(5, tensor))
        .message(11, &value_info(INPUT, &[c, h, w]))
        .message(12, &value_info(OUTPUT, &[cfg.num_classes as i64]));
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| Error::content(Path::new(ONNX), error.to_string()))
    };
    let properties = [
        ("preprocessing", json(serde_json::to_string(cfg))?),
        ("labels", json(serde_json::to_string(&cfg.label_names))?),
        ("dcff_version", config.dcff_version.clone()),
        (
            "provenance",
            json(serde_json::to_string(&config.provenance))?,
        ),
    ];
    let bytes = Message::new()
        .int(1, IR_VERSION)
        .text(2, "dcff")
        .text(3, &config.dcff_version)
        .message(7, &graph)
        .message(8, &Message::new().text(1, "").int(2, OPSET))
        .each(properties, |m, (key, value)| {
            m.message(14, &Message::new().text(1, key).text(2, &value))
        })
        .finish();
    if bytes.len() > MAX_BYTES {
        return Err(Error::content(
            Path::new(ONNX),
            format!("expected at most {MAX_BYTES} bytes, got {}", bytes.len()),
        ));
    }
    Ok(bytes)
}

/// A `ValueInfoProto` of `[batch, dims..]`.
fn value_info(name: &str, dims: &[i64]) -> Message {
    let batch = Message::new().text(2, "batch");
    let shape = Message::new()
        .message(1, &batch)
        .each(dims, |m, &dim| m.message(1, &Message::new().int(1, dim)));
    let tensor = Message::new().int(1, FLOAT).message(2, &shape);
    Message::new()
        .text(1, name)
        .message(2, &Message::new().message(1, &tensor))
}

/// An `AttributeProto`.
fn int(name: &str, value: i64) -> Message {
    Message::new().text(1, name).int(3, value).int(20, 2)
}

fn ints(name: &str, values: &[usize]) -> Message {
    Message::new()
        .text(1, name)
        .each(values, |m, &v| m.int(8, v as i64))
        .int(20, 7)
}

fn float(name: &str, value: f32) -> Message {
    Message::new().text(1, name).float(2, value).int(20, 1)
}

/// Nodes and constants in the order of computation.
struct Graph {
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    /// All names of values; each is given once.
    names: HashSet<String>,
}

impl Graph {
    /// A graph that has the artefact's tensors.
    fn new(artefact: &Artefact) -> Result<Self> {
        let mut graph = Self {
            nodes: Vec::new(),
            initializers: Vec::new(),
            names: HashSet::from([INPUT.to_owned(), OUTPUT.to_owned()]),
        };
        for (name, tensor) in artefact.tensors() {
            // The number of training batches seen is i64 and of no use here.
            if tensor.dtype() == DType::F32 {
                graph.names.insert(name.clone());
                graph.initializers.push(floats(name, tensor)?);
            }
        }
        Ok(graph)
    }

    /// `name`, with underscores as long as another value is called so.
    fn fresh(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn node(&mut self, kind: &str, inputs: &[&str], output: &str, attributes: &[Message]) {
        self.nodes.push(
            Message::new()
                .each(inputs, |m, input| m.text(1, input))
                .text(2, output)
                .text(3, output)
                .text(4, kind)
                .each(attributes, |m, attribute| m.message(5, attribute)),
        );
    }

    /// A node between others; returns the name of its output.
    fn inner(&mut self, kind: &str, inputs: &[&str], name: &str, attributes: &[Message]) -> String {
        let output = self.fresh(name);
        self.node(kind, inputs, &output, attributes);
        output
    }

    /// A constant number; returns its name.
    fn number(&mut self, name: &str, value: f32) -> String {
        let name = self.fresh(name);
        self.initializers.push(
            Message::new()
                .int(2, FLOAT)
                .text(8, &name)
                .bytes(9, &value.to_le_bytes()),
        );
        name
    }

    /// A constant list of integers; returns its name.
    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        let name = self.fresh(name);
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializers.push(
            Message::new()
                .int(1, values.len() as i64)
                .int(2, INT64)
                .text(8, &name)
                .bytes(9, &raw),
        );
        name
    }

    /// `x[starts[i]::steps[i]]` along `axes[i]`; all but `ends[i]` of the axis where that is negative.
    fn slice(&mut self, x: &str, name: &str, bounds: &[[i64; 4]]) -> String {
        let lists = ["starts", "ends", "axes", "steps"].iter().enumerate();
        let lists: Vec<String> = lists
            .map(|(i, list)| {
                let values: Vec<i64> = bounds.iter().map(|bound| bound[i]).collect();
                self.constant(&format!("{name}.{list}"), &values)
            })
            .collect();
        let [starts, ends, axes, steps] = [0, 1, 2, 3].map(|i| lists[i].as_str());
        self.inner("Slice", &[x, starts, ends, axes, steps], name, &[])
    }

    fn layers(&mut self, artefact: &Artefact) -> Result<()> {
        let architecture = &artefact.config.architecture;
        let shapes = architecture.shapes()?;
        let wiring = architecture.wiring()?;
        let last = architecture.layers.len() - 1;
        let mut values: Vec<String> = Vec::with_capacity(architecture.layers.len());
        for (position, layer) in architecture.layers.iter().enumerate() {
            let inputs: Vec<&str> = wiring[position]
                .iter()
                .map(|input| input.map_or(INPUT, |i| values[i].as_str()))
                .collect();
            let (x, name) = (inputs[0], layer.name.as_str());
            let parameter = |suffix: &str| format!("{name}.{suffix}");
            let value = match &layer.kind {
                LayerKind::Conv(conv) => {
                    let (weight, bias) = (parameter("weight"), parameter("bias"));
                    let attributes = [
                        ints("kernel_shape", &[conv.kernel; 2]),
                        ints("strides", &[conv.stride; 2]),
                        ints("pads", &[conv.padding; 4]),
                        int(
                            "group",
                            conv.groups.of(shapes.inputs(position)[0].channels) as i64,
                        ),
                    ];
                    let all = [x, weight.as_str(), bias.as_str()];
                    let inputs = if conv.bias { &all[..] } else { &all[..2] };
                    self.inner("Conv", inputs, name, &attributes)
                }
                LayerKind::Norm(norm) => {
                    let parameters =
                        ["weight", "bias", "running_mean", "running_var"].map(parameter);
                    let [scale, shift, mean, var] = [0, 1, 2, 3].map(|i| parameters[i].as_str());
                    // `momentum` only matters for training.
                    let attributes = [float("epsilon", norm.eps as f32)];
                    self.inner(
                        "BatchNormalization",
                        &[x, scale, shift, mean, var],
                        name,
                        &attributes,
                    )
                }
                LayerKind::Activation { function } => {
                    let plain = |graph: &mut Self, kind| graph.inner(kind, &[x], name, &[]);
                    match function {
                        Activation::Relu => plain(self, "Relu"),
                        Activation::Identity => plain(self, "Identity"),
                        Activation::Relu6 => {
                            let low = self.number(&format!("{name}.low"), 0.0);
                            let high = self.number(&format!("{name}.high"), 6.0);
                            self.inner("Clip", &[x, &low, &high], name, &[])
                        }
                    }
                }
                LayerKind::MaxPool(pool) => self.inner("MaxPool", &[x], name, &window(pool)),
                LayerKind::AvgPool(pool) => {
                    let mut attributes = window(pool).to_vec();
                    attributes.push(int("count_include_pad", 1));
                    self.inner("AveragePool", &[x], name, &attributes)
                }
                LayerKind::GlobalAvgPool => self.inner("GlobalAveragePool", &[x], name, &[]),
                LayerKind::Linear(linear) => {
                    let flat = self.inner(
                        "Flatten",
                        &[x],
                        &format!("{name}.flatten"),
                        &[int("axis", 1)],
                    );
                    let (weight, bias) = (parameter("weight"), parameter("bias"));
                    let all = [flat.as_str(), weight.as_str(), bias.as_str()];
                    let inputs = if linear.bias { &all[..] } else { &all[..2] };
                    let attributes = [int("transB", 1)];
                    if position == last {
                        self.node("Gemm", inputs, OUTPUT, &attributes);
                        return Ok(());
                    }
                    let rows = self.inner("Gemm", inputs, name, &attributes);
                    // Whatever follows reads maps of one pixel.
                    let axes = self.constant(&format!("{name}.axes"), &[2, 3]);
                    self.inner("Unsqueeze", &[&rows, &axes], &format!("{name}.maps"), &[])
                }
                LayerKind::Add => self.inner("Add", &inputs, name, &[]),
                LayerKind::Concat => self.inner("Concat", &inputs, name, &[int("axis", 1)]),
                LayerKind::Scatter(scatter) => {
                    let width = shapes.output(position).channels;
                    self.scatter(x, name, &scatter.channels, width)
                }
                LayerKind::Offset(offset) => {
                    // Every row and column takes the number of its place.
                    let shape = shapes.output(position);
                    let mut all = parameter("bias");
                    for (axis, ends, size) in [
                        (1, offset.rows, shape.height),
                        (2, offset.columns, shape.width),
                    ] {
                        if ends != [0, 0] {
                            let place = Border::place(ends, size);
                            let places: Vec<i64> = (0..size).map(|i| place(i) as i64).collect();
                            let places = self.constant(&format!("{name}.places{axis}"), &places);
                            let gathered = format!("{name}.gathered{axis}");
                            all = self.inner(
                                "Gather",
                                &[&all, &places],
                                &gathered,
                                &[int("axis", axis)],
                            );
                        }
                    }
                    self.inner("Add", &[x, &all], name, &[])
                }
                LayerKind::Shortcut(shortcut) => {
                    let from = shapes.inputs(position)[0].channels as i64;
                    let missing = shapes.output(position).channels as i64 - from;
                    let before = missing.div_euclid(2);
                    self.shortcut(
                        x,
                        name,
                        shortcut.stride as i64,
                        from,
                        [before, missing - before],
                    )
                }
            };
            values.push(value);
        }
        self.node("Flatten", &[&values[last]], OUTPUT, &[int("axis", 1)]);
        Ok(())
    }

    /// Channels at their places among `width`: gathered from the maps and one channel of zeros behind them.
    fn scatter(&mut self, x: &str, name: &str, channels: &[usize], width: usize) -> String {
        let pads = self.constant(&format!("{name}.pads"), &[0, 0, 0, 0, 0, 1, 0, 0]);
        let padded = self.inner("Pad", &[x, &pads], &format!("{name}.padded"), &[]);
        let from = |place: usize| channels.binary_search(&place).unwrap_or(channels.len());
        let from: Vec<i64> = (0..width).map(|place| from(place) as i64).collect();
        let from = self.constant(&format!("{name}.from"), &from);
        self.inner("Gather", &[&padded, &from], name, &[int("axis", 1)])
    }

    /// Every `stride`-th pixel of `channels` channels; zero channels before and after, or where negative fewer channels.
    fn shortcut(
        &mut self,
        x: &str,
        name: &str,
        stride: i64,
        channels: i64,
        [before, after]: [i64; 2],
    ) -> String {
        let mut bounds = vec![[0, i64::MAX, 2, stride], [0, i64::MAX, 3, stride]];
        if before < 0 || after < 0 {
            bounds.push([(-before).max(0), channels + after.min(0), 1, 1]);
        }
        let sliced = self.slice(x, &format!("{name}.slice"), &bounds);
        let (before, after) = (before.max(0), after.max(0));
        if before + after == 0 {
            return sliced;
        }
        let pads = self.constant(&format!("{name}.pads"), &[0, before, 0, 0, 0, after, 0, 0]);
        self.inner("Pad", &[&sliced, &pads], name, &[])
    }
}

fn window(pool: &Pool) -> [Message; 3] {
    [
        ints("kernel_shape", &[pool.kernel; 2]),
        ints("strides", &[pool.stride; 2]),
        ints("pads", &[pool.padding; 4]),
    ]
}

/// A `TensorProto` of `f32`.
fn floats(name: &str, tensor: &Tensor) -> Result<Message> {
    let values = tensor
        .flatten_all()
        .and_then(|t| t.to_vec1::<f32>())
        .map_err(|error| Error::Model(error.into()))?;
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Ok(Message::new()
        .each(tensor.dims(), |m, &dim| m.int(1, dim as i64))
        .int(2, FLOAT)
        .text(8, name)
        .bytes(9, &raw))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::networks;

    /// The fields of a message: number and payload; integers as their value.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>, u64)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            match tag & 7 {
                0 => fields.push((tag >> 3, Vec::new(), varint(&mut bytes))),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    fields.push((tag >> 3, bytes[..length].to_vec(), 0));
                    bytes = &bytes[length..];
                }
                5 => {
                    fields.push((tag >> 3, bytes[..4].to_vec(), 0));
                    bytes = &bytes[4..];
                }
                other => panic!("wire type {other}"),
            }
        }
        fields
    }

    fn one(bytes: &[u8], field: u64) -> Vec<u8> {
        let found = fields(bytes)
            .into_iter()
            .find(|(number, ..)| *number == field);
        found.unwrap().1
    }

    fn operators(file: &[u8]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, node, _) in fields(&one(file, 7))
            .iter()
            .filter(|(number, ..)| *number == 1)
        {
            *counts
                .entry(String::from_utf8(one(node, 4)).unwrap())
                .or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn every_layer_becomes_its_operator() {
        let all = networks();
        let resnet = &all[0];
        let file = onnx(resnet).unwrap();
        assert_eq!(file, onnx(resnet).unwrap());
        let expected = [
            ("Add", 9),
            ("BatchNormalization", 19),
            ("Conv", 19),
            ("Flatten", 1),
            ("Gemm", 1),
            ("GlobalAveragePool", 1),
            ("Pad", 1),
            ("Relu", 19),
            // One shortcut widens, the other loses channels.
            ("Slice", 2),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(k, n)| (k.to_owned(), n)).into();
        assert_eq!(operators(&file), expected);

        let folded = operators(&onnx(&resnet.fold_batch_norm().unwrap()).unwrap());
        assert!(!folded.contains_key("BatchNormalization"));
        assert_eq!(folded["Conv"], 19);
    }

    #[test]
    fn a_range_of_an_activation_becomes_a_clip_to_both_ends() {
        let mut artefact = networks().remove(0);
        for layer in &mut artefact.config.architecture.layers {
            if let LayerKind::Activation { function } = &mut layer.kind {
                *function = Activation::Relu6;
            }
        }
        let file = onnx(&artefact).unwrap();
        let operators = operators(&file);
        assert_eq!(operators["Clip"], 19);
        assert!(!operators.contains_key("Relu"));
        let ends: Vec<(String, Vec<u8>)> = fields(&one(&file, 7))
            .into_iter()
            .filter(|(number, ..)| *number == 5)
            .map(|(_, initializer, _)| {
                let name = String::from_utf8(one(&initializer, 8)).unwrap();
                (name, one(&initializer, 9))
            })
            .filter(|(name, _)| name.starts_with("relu."))
            .collect();
        let expected = [("relu.low", 0f32), ("relu.high", 6.0)]
            .map(|(name, end)| (name.to_owned(), end.to_le_bytes().to_vec()));
        assert_eq!(ends, expected);
    }

    #[test]
    fn the_file_tells_its_preprocessing() {
        let artefact = &networks()[0];
        let file = onnx(artefact).unwrap();
        let properties: BTreeMap<String, String> = fields(&file)
            .into_iter()
            .filter(|(number, ..)| *number == 14)
            .map(|(_, entry, _)| {
                [1, 2]
                    .map(|f| String::from_utf8(one(&entry, f)).unwrap())
                    .into()
            })
            .collect();
        let cfg: crate::Preprocessing = serde_json::from_str(&properties["preprocessing"]).unwrap();
        assert_eq!(cfg, artefact.config.pretrained_cfg);
        let labels: Vec<String> = serde_json::from_str(&properties["labels"]).unwrap();
        assert_eq!(labels, cfg.label_names);
    }
}
