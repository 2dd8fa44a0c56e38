//! The narrow network that computes what a network with filters that are off computes.
//!
//! A filter that is off still leaves its bias in its maps, batch norm makes a constant of that and the activation another: a channel
//! that says the same of every image. The layers behind read it all the same. Here such channels are removed and their
//! constants followed:
//!
//! ```text
//! conv:  D[k] = Σ_c W[k, c] * κ_c      added before batch norm: near the border, where zeros surround the maps, other than inside
//! norm:  κ' = β + γ (κ - μ) / √(v + ε)
//! linear: b' = b + Σ_c W[:, c] κ_c
//! ```
//!
//! What is the same at every pixel goes into a bias or into the mean of the batch norm behind, what is not into an [`Offset`]. At the
//! end of a block the channels that are left go back to their places in the stream ([`Scatter`]), with the constants of the others beside
//! them; a block of which nothing is left is its shortcut and a constant. Sums are made in double precision: a filter's running variance may
//! have decayed to almost nothing.
//!
//! The method is that of KDFS (<https://arxiv.org/abs/2307.00198>), whose program counts such a network and does not make it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use candle_core::{Device, Tensor};
use dcff_nn::{Activation, Border};

use crate::architecture::{Architecture, INPUT, Layer};
use crate::layers::{Conv, Groups, LayerKind, Linear, Offset, Pool, Scatter, Shortcut, take};
use crate::network::Network;
use crate::shape::Shape;
use crate::shapes::Shapes;
use crate::spaces::Space;
use crate::{Error, Result};

/// What becomes of the constants of filters that are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constants {
    /// They are carried along: the narrow network computes the same.
    Carried,
    /// They are taken for 0 behind batch norm: plain slicing, which computes something else and needs its statistics renewed.
    Dropped,
}

/// A channel that is the same for every image.
#[derive(Clone, Debug, PartialEq)]
enum Plane {
    /// At every pixel.
    Uniform(f64),
    /// Pixel by pixel, rows first.
    Pixels(Vec<f64>),
}

impl Plane {
    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Uniform(value) => Self::Uniform(f(*value)),
            Self::Pixels(values) => Self::Pixels(values.iter().map(|&v| f(v)).collect()),
        }
    }

    fn at(&self, pixel: usize) -> f64 {
        match self {
            Self::Uniform(value) => *value,
            Self::Pixels(values) => values[pixel],
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Self::Uniform(value) => *value == 0.0,
            Self::Pixels(values) => values.iter().all(|&v| v == 0.0),
        }
    }

    fn plus(&self, other: &Self, pixels: usize) -> Self {
        match (self, other) {
            (Self::Uniform(a), Self::Uniform(b)) => Self::Uniform(a + b),
            _ => Self::Pixels((0..pixels).map(|i| self.at(i) + other.at(i)).collect()),
        }
    }
}

/// A wide layer's output in the narrow network.
#[derive(Clone, Debug)]
struct Maps {
    /// The channels that are left, as indices of the wide layer.
    live: Vec<usize>,
    /// The narrow layer that has them; `None` where there are none.
    from: Option<String>,
    /// The other channels.
    constant: BTreeMap<usize, Plane>,
    /// Those of them whose own filter is off, and not just all that it reads.
    off: BTreeSet<usize>,
    /// The wide layer's channel space.
    space: Option<String>,
}

impl Maps {
    fn whole(shape: Shape, from: &str, space: Option<&str>) -> Self {
        Self {
            live: (0..shape.channels).collect(),
            from: Some(from.to_owned()),
            constant: BTreeMap::new(),
            off: BTreeSet::new(),
            space: space.map(str::to_owned),
        }
    }
}

/// The numbers of a small tensor.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f64::from).collect())
}

/// A narrow network under construction.
struct Narrow<'a> {
    wide: &'a Architecture,
    shapes: Shapes,
    readers: Vec<Vec<usize>>,
    kept: &'a BTreeMap<String, Vec<bool>>,
    constants: Constants,
    /// The wide network's tensors, on the CPU.
    state: BTreeMap<String, Tensor>,
    layers: Vec<Layer>,
    spaces: Vec<Space>,
    tensors: HashMap<String, Tensor>,
    /// What is subtracted from the running mean of the batch norm at a position, by channel.
    shifts: HashMap<usize, BTreeMap<usize, f64>>,
}

impl Network {
    /// The plain narrow network without the filters that are off: `kept` says of masked convolutions, by name, which filters are on.
    ///
    /// With [`Constants::Carried`] it computes in evaluation what this network computes when the other filters are 0 (biases and
    /// batch norm as they are). Streams stay at full width.
    ///
    /// # Errors
    /// When this network computes fewer filters than it has, `kept` names no such filters, or no way is left from the images to the
    /// logits.
    pub fn unmasked(
        &self,
        kept: &BTreeMap<String, Vec<bool>>,
        constants: Constants,
    ) -> Result<Self> {
        let wide = self.compact();
        if self.full() != wide {
            return Err(Error::Widths {
                architecture: wide.name.clone(),
                message: "expected a network that computes all its filters".into(),
            });
        }
        let state = self.state()?;
        let state = state
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)));
        let narrow = Narrow {
            wide,
            shapes: wide.shapes()?,
            readers: wide.readers()?,
            kept,
            constants,
            state: state.collect::<Result<_>>()?,
            layers: Vec::new(),
            spaces: wide.spaces.clone(),
            tensors: HashMap::new(),
            shifts: HashMap::new(),
        };
        narrow.check()?;
        let (architecture, tensors) = narrow.build()?;
        let mut network = Self::new(&architecture, &architecture, 0, self.device())?;
        network.load(&tensors)?;
        network.set_precision(self.precision());
        network.set_convolution(self.convolution());
        Ok(network)
    }
}

impl Architecture {
    /// Whether the logits still depend on the images when the convolutions keep so many filters, by name; others keep all.
    ///
    /// # Errors
    /// As [`Architecture::wiring`].
    pub fn is_connected(&self, kept: &BTreeMap<String, u64>) -> Result<bool> {
        let mut live: Vec<bool> = Vec::with_capacity(self.layers.len());
        for (layer, inputs) in self.layers.iter().zip(self.wiring()?) {
            let any = inputs
                .iter()
                .any(|input| input.is_none_or(|input| live[input]));
            live.push(any && kept.get(&layer.name) != Some(&0));
        }
        Ok(live.last().copied().unwrap_or(false))
    }
}

impl Narrow<'_> {
    fn check(&self) -> Result<()> {
        for (name, kept) in self.kept {
            let found = self.wide.position(name).filter(|&at| {
                matches!(&self.wide.layers[at].kind, LayerKind::Conv(conv) if conv.groups == Groups::Fixed(1))
            });
            let width = found.map(|at| self.shapes.output(at).channels);
            if width != Some(kept.len()) {
                let message = format!(
                    "expected a convolution of one group with {} filters",
                    kept.len()
                );
                return Err(Error::layer(name, message));
            }
        }
        Ok(())
    }

    fn tensor(&self, layer: &str, suffix: &str) -> Option<&Tensor> {
        self.state.get(&format!("{layer}.{suffix}"))
    }

    fn needed(&self, layer: &str, suffix: &str) -> Result<&Tensor> {
        let missing = || Error::MissingParameter(format!("{layer}.{suffix}"));
        self.tensor(layer, suffix).ok_or_else(missing)
    }

    fn set(&mut self, layer: &str, suffix: &str, tensor: Tensor) -> Result<()> {
        self.tensors
            .insert(format!("{layer}.{suffix}"), tensor.contiguous()?);
        Ok(())
    }

    fn push(&mut self, name: &str, kind: LayerKind, inputs: Vec<String>) -> String {
        self.layers.push(Layer {
            name: name.to_owned(),
            kind,
            inputs,
        });
        name.to_owned()
    }

    fn build(mut self) -> Result<(Architecture, HashMap<String, Tensor>)> {
        let wiring = self.wide.wiring()?;
        let mut all: Vec<Maps> = Vec::with_capacity(wiring.len());
        for (at, inputs) in wiring.iter().enumerate() {
            let read: Vec<Maps> = inputs
                .iter()
                .map(|input| match input {
                    Some(input) => all[*input].clone(),
                    None => {
                        let [channels, height, width] = self.wide.input;
                        let shape = Shape {
                            channels,
                            height,
                            width,
                        };
                        Maps::whole(shape, INPUT, None)
                    }
                })
                .collect();
            let maps = self.layer(at, inputs, &read)?;
            all.push(maps);
        }
        let dead = || {
            let message = "no filters are left on any way from the images to the logits";
            Error::layer(&self.wide.name, message)
        };
        let last = all
            .last()
            .and_then(|maps| maps.from.clone())
            .ok_or_else(dead)?;
        self.prune(&last);
        let architecture = Architecture {
            name: self.wide.name.clone(),
            input: self.wide.input,
            initialisation: self.wide.initialisation,
            spaces: self.spaces,
            layers: self.layers,
        };
        Ok((architecture, self.tensors))
    }

    /// Removes layers that nothing reads, their tensors, and spaces that nothing writes to.
    fn prune(&mut self, last: &str) {
        let mut read: HashSet<String> = HashSet::from([last.to_owned()]);
        for layer in self.layers.iter().rev() {
            if read.contains(&layer.name) {
                read.extend(layer.inputs.iter().cloned());
            }
        }
        self.layers.retain(|layer| read.contains(&layer.name));
        let names: HashSet<&str> = self
            .layers
            .iter()
            .map(|layer| layer.name.as_str())
            .collect();
        self.tensors.retain(|name, _| {
            let layer = name
                .rsplit_once('.')
                .map_or(name.as_str(), |(layer, _)| layer);
            names.contains(layer)
        });
        let written: HashSet<&String> = self
            .layers
            .iter()
            .filter_map(|layer| match &layer.kind {
                LayerKind::Conv(conv) => Some(&conv.space),
                LayerKind::Shortcut(shortcut) => Some(&shortcut.space),
                LayerKind::Scatter(scatter) => Some(&scatter.space),
                _ => None,
            })
            .collect();
        self.spaces.retain(|space| written.contains(&space.name));
    }

    fn layer(&mut self, at: usize, inputs: &[Option<usize>], read: &[Maps]) -> Result<Maps> {
        let wide = self.wide;
        let layer = &wide.layers[at];
        let name = layer.name.as_str();
        let x = read
            .first()
            .ok_or_else(|| Error::layer(name, "reads nothing"))?;
        let (from, to) = (self.shapes.inputs(at)[0], self.shapes.output(at));
        match &layer.kind {
            LayerKind::Conv(conv) => self.conv(at, conv, x),
            LayerKind::Norm(norm) => {
                let maps = self.norm(at, norm.eps, x)?;
                let ends = match inputs.first() {
                    Some(Some(conv)) => {
                        self.kept.contains_key(&wide.layers[*conv].name)
                            && wide.ends_block(*conv)?
                    }
                    _ => false,
                };
                match ends {
                    true => self.restored(maps, name, to),
                    false => Ok(maps),
                }
            }
            LayerKind::Activation { function } => Ok(self.passed(layer, x, |plane| {
                plane.map(|value| activated(*function, value))
            })),
            LayerKind::MaxPool(pool) => Ok(self.passed(layer, x, |plane| {
                pooled(plane, pool, from, to, |values| {
                    values
                        .iter()
                        .flatten()
                        .copied()
                        .fold(f64::NEG_INFINITY, f64::max)
                })
            })),
            LayerKind::AvgPool(pool) => Ok(self.passed(layer, x, |plane| {
                // Padding counts.
                let mean = |values: &[Option<f64>]| {
                    values.iter().map(|v| v.unwrap_or(0.0)).sum::<f64>() / values.len() as f64
                };
                match plane {
                    Plane::Uniform(_) if pool.padding == 0 => plane.clone(),
                    _ => pooled(&spread(plane, from), pool, from, to, mean),
                }
            })),
            LayerKind::GlobalAvgPool => {
                let pixels = from.height * from.width;
                Ok(self.passed(layer, x, |plane| {
                    Plane::Uniform((0..pixels).map(|i| plane.at(i)).sum::<f64>() / pixels as f64)
                }))
            }
            LayerKind::Linear(linear) => self.linear(at, linear, x),
            LayerKind::Add => self.add(at, read),
            LayerKind::Concat => Ok(self.concat(at, read)),
            LayerKind::Shortcut(shortcut) => self.shortcut(at, shortcut, x),
            LayerKind::Scatter(_) | LayerKind::Offset(_) => Err(Error::layer(
                name,
                "expected a network that has not been made narrow before",
            )),
        }
    }

    /// A layer that treats every channel alike.
    fn passed(&mut self, layer: &Layer, x: &Maps, f: impl Fn(&Plane) -> Plane) -> Maps {
        let from = x
            .from
            .clone()
            .map(|input| self.push(&layer.name, layer.kind.clone(), vec![input]));
        Maps {
            from,
            constant: x
                .constant
                .iter()
                .map(|(&channel, plane)| (channel, f(plane)))
                .collect(),
            ..x.clone()
        }
    }

    /// The space of a convolution of which `kept` filters are left.
    fn space_of(&mut self, at: usize, conv: &Conv, kept: usize) -> Result<String> {
        let wide = self.wide;
        if kept == self.shapes.output(at).channels {
            return Ok(conv.space.clone());
        }
        let others = wide
            .layers
            .iter()
            .enumerate()
            .any(|(other, layer)| match &layer.kind {
                LayerKind::Conv(c) => {
                    other != at && c.space == conv.space && c.groups != Groups::Depthwise
                }
                LayerKind::Shortcut(shortcut) => shortcut.space == conv.space,
                _ => false,
            });
        if !others
            && !wide.ends_block(at)?
            && let Some(space) = self
                .spaces
                .iter_mut()
                .find(|space| space.name == conv.space)
        {
            space.width = kept;
            return Ok(conv.space.clone());
        }
        Ok(self.new_space(&wide.layers[at].name, kept))
    }

    /// A space of `width` channels with a name that no other has.
    fn new_space(&mut self, name: &str, width: usize) -> String {
        let mut name = name.to_owned();
        while self.spaces.iter().any(|space| space.name == name) {
            name.push_str("_kept");
        }
        self.spaces.push(Space {
            name: name.clone(),
            width,
        });
        name
    }

    fn conv(&mut self, at: usize, conv: &Conv, x: &Maps) -> Result<Maps> {
        let name = self.wide.layers[at].name.clone();
        let (from, to) = (self.shapes.inputs(at)[0], self.shapes.output(at));
        let weight = self.needed(&name, "weight")?.clone();
        let bias = self.tensor(&name, "bias").cloned();
        let biases = match &bias {
            Some(bias) => numbers(bias)?,
            None => vec![0.0; to.channels],
        };
        let depthwise = conv.groups == Groups::Depthwise;
        if conv.groups.of(from.channels) > 1 && !depthwise && !x.constant.is_empty() {
            return Err(Error::layer(
                &name,
                "expected all channels before a convolution in groups",
            ));
        }
        let kept: Vec<usize> = match self.kept.get(&name) {
            _ if depthwise => x.live.clone(),
            Some(on) => (0..on.len()).filter(|&i| on[i]).collect(),
            None => (0..to.channels).collect(),
        };
        let values = numbers(&weight)?;
        let window = Window {
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            from,
            to,
        };
        let mut maps = Maps {
            live: Vec::new(),
            from: None,
            constant: BTreeMap::new(),
            off: BTreeSet::new(),
            space: Some(conv.space.clone()),
        };
        let area = conv.kernel * conv.kernel;
        if depthwise {
            maps.off.clone_from(&x.off);
            for (&channel, plane) in &x.constant {
                let added =
                    window.convolved(&[(plane, &values[channel * area..(channel + 1) * area])]);
                maps.constant
                    .insert(channel, added.map(|v| v + biases[channel]));
            }
        }
        // What the constants add to each kept filter.
        let depth = from.channels;
        let added: Vec<Plane> = match depthwise || x.constant.is_empty() {
            true => vec![Plane::Uniform(0.0); kept.len()],
            false => kept
                .iter()
                .map(|&filter| {
                    let parts: Vec<(&Plane, &[f64])> = x
                        .constant
                        .iter()
                        .map(|(&channel, plane)| {
                            let first = (filter * depth + channel) * area;
                            (plane, &values[first..first + area])
                        })
                        .collect();
                    window.convolved(&parts)
                })
                .collect(),
        };
        if !depthwise {
            maps.off = (0..to.channels)
                .filter(|filter| !kept.contains(filter))
                .collect();
            let off = maps.off.iter();
            maps.constant
                .extend(off.map(|&filter| (filter, Plane::Uniform(biases[filter]))));
        }
        let Some(input) = x.from.clone() else {
            let all = kept.iter().zip(added);
            maps.constant
                .extend(all.map(|(&filter, plane)| (filter, plane.map(|v| v + biases[filter]))));
            return Ok(maps);
        };
        if kept.is_empty() {
            return Ok(maps);
        }
        let space = match depthwise {
            true => conv.space.clone(),
            false => self.space_of(at, conv, kept.len())?,
        };
        let narrow = match depthwise {
            true => take(&weight, &kept, 0)?,
            false if x.constant.is_empty() => take(&weight, &kept, 0)?,
            false => take(&take(&weight, &kept, 0)?, &x.live, 1)?,
        };
        self.set(&name, "weight", narrow)?;
        let kind = LayerKind::Conv(Conv {
            space,
            ..conv.clone()
        });
        let mut output = self.push(&name, kind, vec![input]);
        let uniform: Option<Vec<f64>> = added
            .iter()
            .map(|plane| match plane {
                Plane::Uniform(value) => Some(*value),
                Plane::Pixels(_) => None,
            })
            .collect();
        let norm = match self.readers[at][..] {
            [reader] if matches!(self.wide.layers[reader].kind, LayerKind::Norm(_)) => Some(reader),
            _ => None,
        };
        let mut own: Vec<f64> = kept.iter().map(|&filter| biases[filter]).collect();
        match (uniform, norm) {
            (Some(uniform), _) if conv.bias => {
                own.iter_mut()
                    .zip(uniform)
                    .for_each(|(bias, added)| *bias += added);
            }
            (Some(uniform), Some(norm)) => {
                let shifts = kept.iter().copied().zip(uniform);
                self.shifts
                    .insert(norm, shifts.filter(|(_, shift)| *shift != 0.0).collect());
            }
            _ => output = self.offset(&format!("{name}_offset"), output, &added, to)?,
        }
        if conv.bias {
            self.set(&name, "bias", vector(&own)?)?;
        }
        maps.live = kept;
        maps.from = Some(output);
        Ok(maps)
    }

    /// The layer `name` that adds `planes`, one for each channel of `input`; `input` itself where they are all 0.
    fn offset(
        &mut self,
        name: &str,
        input: String,
        planes: &[Plane],
        shape: Shape,
    ) -> Result<String> {
        if planes.iter().all(Plane::is_zero) {
            return Ok(input);
        }
        let border = border(planes, shape);
        let [rows, columns] = border.places();
        let pick = |place: usize, [before, after]: [usize; 2], size: usize| match place {
            place if place <= before => place.min(size - 1),
            place => size - after + (place - before - 1),
        };
        let mut values = Vec::with_capacity(planes.len() * rows * columns);
        for plane in planes {
            for row in 0..rows {
                for column in 0..columns {
                    let i = pick(row, border.rows, shape.height);
                    let j = pick(column, border.columns, shape.width);
                    values.push(plane.at(i * shape.width + j) as f32);
                }
            }
        }
        let bias = Tensor::from_vec(values, (planes.len(), rows, columns), &Device::Cpu)?;
        self.set(name, "bias", bias)?;
        let kind = LayerKind::Offset(Offset {
            rows: border.rows,
            columns: border.columns,
        });
        Ok(self.push(name, kind, vec![input]))
    }

    fn norm(&mut self, at: usize, eps: f64, x: &Maps) -> Result<Maps> {
        let layer = &self.wide.layers[at];
        let name = layer.name.clone();
        let [scale, shift, mean, var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|suffix| self.needed(&name, suffix).and_then(numbers));
        let (scale, shift, mut mean, var) = (scale?, shift?, mean?, var?);
        let mut maps = x.clone();
        for (&channel, plane) in &mut maps.constant {
            let factor = scale[channel] / (var[channel] + eps).sqrt();
            *plane = match self.constants {
                Constants::Dropped if x.off.contains(&channel) => Plane::Uniform(0.0),
                _ => plane.map(|v| shift[channel] + factor * (v - mean[channel])),
            };
        }
        let Some(input) = &x.from else {
            return Ok(maps);
        };
        for (channel, added) in self.shifts.remove(&at).unwrap_or_default() {
            mean[channel] -= added;
        }
        for (suffix, values) in [
            ("weight", &scale),
            ("bias", &shift),
            ("running_mean", &mean),
            ("running_var", &var),
        ] {
            let left: Vec<f64> = x.live.iter().map(|&channel| values[channel]).collect();
            self.set(&name, suffix, vector(&left)?)?;
        }
        if let Some(batches) = self.tensor(&name, BATCHES).cloned() {
            self.tensors.insert(format!("{name}.{BATCHES}"), batches);
        }
        let kind = layer.kind.clone();
        maps.from = Some(self.push(&name, kind, vec![input.clone()]));
        Ok(maps)
    }

    /// `maps` with all channels, under names that begin with `name`: those that are left at their places, the constants beside them.
    /// Where none is left they stay as they are.
    fn restored(&mut self, maps: Maps, name: &str, shape: Shape) -> Result<Maps> {
        let Some(input) = maps.from.clone() else {
            return Ok(maps);
        };
        if maps.constant.is_empty() {
            return Ok(maps);
        }
        let known = maps.space.as_ref().filter(|space| {
            self.spaces
                .iter()
                .any(|own| own.name == **space && own.width == shape.channels)
        });
        let space = match known {
            Some(space) => space.clone(),
            None => self.new_space(&format!("{name}_all"), shape.channels),
        };
        let kind = LayerKind::Scatter(Scatter {
            space: space.clone(),
            channels: maps.live.clone(),
        });
        let scattered = self.push(&format!("{name}_scatter"), kind, vec![input]);
        let zero = Plane::Uniform(0.0);
        let planes: Vec<Plane> = (0..shape.channels)
            .map(|channel| maps.constant.get(&channel).unwrap_or(&zero).clone())
            .collect();
        let whole = self.offset(&format!("{name}_offset"), scattered, &planes, shape)?;
        Ok(Maps::whole(shape, &whole, Some(&space)))
    }

    fn linear(&mut self, at: usize, linear: &Linear, x: &Maps) -> Result<Maps> {
        let name = self.wide.layers[at].name.clone();
        let (from, to) = (self.shapes.inputs(at)[0], self.shapes.output(at));
        let weight = self.needed(&name, "weight")?.clone();
        let mut biases = match self.tensor(&name, "bias") {
            Some(bias) => numbers(bias)?,
            None => vec![0.0; linear.features],
        };
        let (values, pixels) = (numbers(&weight)?, from.height * from.width);
        let columns = from.channels * pixels;
        for (feature, bias) in biases.iter_mut().enumerate() {
            for (&channel, plane) in &x.constant {
                let first = feature * columns + channel * pixels;
                *bias += (0..pixels)
                    .map(|i| values[first + i] * plane.at(i))
                    .sum::<f64>();
            }
        }
        let Some(input) = x.from.clone() else {
            let constant = biases
                .into_iter()
                .enumerate()
                .map(|(i, v)| (i, Plane::Uniform(v)));
            return Ok(Maps {
                live: Vec::new(),
                from: None,
                constant: constant.collect(),
                off: BTreeSet::new(),
                space: None,
            });
        };
        let left: Vec<usize> = x
            .live
            .iter()
            .flat_map(|&c| c * pixels..(c + 1) * pixels)
            .collect();
        self.set(&name, "weight", take(&weight, &left, 1)?)?;
        let bias = linear.bias || biases.iter().any(|&bias| bias != 0.0);
        if bias {
            self.set(&name, "bias", vector(&biases)?)?;
        }
        let kind = LayerKind::Linear(Linear {
            bias,
            ..linear.clone()
        });
        let from = self.push(&name, kind, vec![input]);
        Ok(Maps::whole(to, &from, None))
    }

    fn add(&mut self, at: usize, read: &[Maps]) -> Result<Maps> {
        let layer = &self.wide.layers[at];
        let (name, shape) = (layer.name.clone(), self.shapes.output(at));
        let mut whole = Vec::with_capacity(read.len());
        for (i, maps) in read.iter().enumerate() {
            whole.push(self.restored(maps.clone(), &format!("{name}_{i}"), shape)?);
        }
        let pixels = shape.height * shape.width;
        let (live, dead): (Vec<&Maps>, Vec<&Maps>) =
            whole.iter().partition(|maps| maps.from.is_some());
        let zero = Plane::Uniform(0.0);
        let sums: Vec<Plane> = (0..shape.channels)
            .map(|channel| {
                let planes = dead.iter().filter_map(|maps| maps.constant.get(&channel));
                planes.fold(zero.clone(), |sum, plane| sum.plus(plane, pixels))
            })
            .collect();
        let space = whole.iter().find_map(|maps| maps.space.clone());
        let inputs: Vec<String> = live.iter().filter_map(|maps| maps.from.clone()).collect();
        let from = match &inputs[..] {
            [] => {
                return Ok(Maps {
                    live: Vec::new(),
                    from: None,
                    constant: sums.into_iter().enumerate().collect(),
                    off: BTreeSet::new(),
                    space,
                });
            }
            [one] => self.offset(&name, one.clone(), &sums, shape)?,
            _ => {
                let kind = layer.kind.clone();
                self.push(&name, kind, inputs)
            }
        };
        Ok(Maps::whole(shape, &from, space.as_deref()))
    }

    fn concat(&mut self, at: usize, read: &[Maps]) -> Maps {
        let layer = &self.wide.layers[at];
        let (mut live, mut constant, mut off, mut inputs) =
            (Vec::new(), BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut first = 0;
        for (i, maps) in read.iter().enumerate() {
            live.extend(maps.live.iter().map(|channel| channel + first));
            constant.extend(
                maps.constant
                    .iter()
                    .map(|(channel, plane)| (channel + first, plane.clone())),
            );
            off.extend(maps.off.iter().map(|channel| channel + first));
            inputs.extend(maps.from.clone());
            first += self.shapes.inputs(at)[i].channels;
        }
        let kind = layer.kind.clone();
        let from = (!inputs.is_empty()).then(|| self.push(&layer.name, kind, inputs));
        Maps {
            live,
            from,
            constant,
            off,
            space: None,
        }
    }

    fn shortcut(&mut self, at: usize, shortcut: &Shortcut, x: &Maps) -> Result<Maps> {
        let layer = &self.wide.layers[at];
        let name = layer.name.clone();
        let (from, to) = (self.shapes.inputs(at)[0], self.shapes.output(at));
        let kind = layer.kind.clone();
        let x = self.restored(x.clone(), &name, from)?;
        let Some(input) = x.from else {
            let before = (to.channels - from.channels) / 2;
            let pixels = (0..to.height).flat_map(|i| (0..to.width).map(move |j| (i, j)));
            let pixels: Vec<usize> = pixels
                .map(|(i, j)| i * shortcut.stride * from.width + j * shortcut.stride)
                .collect();
            let plane =
                |channel: usize| match channel.checked_sub(before).and_then(|c| x.constant.get(&c))
                {
                    None => Plane::Uniform(0.0),
                    Some(Plane::Uniform(value)) => Plane::Uniform(*value),
                    Some(plane) => Plane::Pixels(pixels.iter().map(|&i| plane.at(i)).collect()),
                };
            return Ok(Maps {
                live: Vec::new(),
                from: None,
                constant: (0..to.channels)
                    .map(|channel| (channel, plane(channel)))
                    .collect(),
                off: BTreeSet::new(),
                space: Some(shortcut.space.clone()),
            });
        };
        let from = self.push(&name, kind, vec![input]);
        Ok(Maps::whole(to, &from, Some(&shortcut.space)))
    }
}

const BATCHES: &str = "num_batches_tracked";

fn vector(values: &[f64]) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

fn activated(function: Activation, value: f64) -> f64 {
    match function {
        Activation::Identity => value,
        Activation::Relu => value.max(0.0),
        Activation::Relu6 => value.clamp(0.0, 6.0),
    }
}

/// A plane pixel by pixel.
fn spread(plane: &Plane, shape: Shape) -> Plane {
    Plane::Pixels(
        (0..shape.height * shape.width)
            .map(|i| plane.at(i))
            .collect(),
    )
}

/// A plane behind a pool that makes one number of a window's; `None` stands for padding.
fn pooled(
    plane: &Plane,
    pool: &Pool,
    from: Shape,
    to: Shape,
    f: impl Fn(&[Option<f64>]) -> f64,
) -> Plane {
    if let Plane::Uniform(value) = plane {
        // Of equal numbers; padding is never the largest.
        return Plane::Uniform(*value);
    }
    let window = Window {
        kernel: pool.kernel,
        stride: pool.stride,
        padding: pool.padding,
        from,
        to,
    };
    let values = (0..to.height * to.width).map(|pixel| {
        let places: Vec<Option<f64>> = window
            .places(pixel)
            .map(|place| place.map(|i| plane.at(i)))
            .collect();
        f(&places)
    });
    Plane::Pixels(values.collect())
}

/// The windows of a layer over its input.
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
    from: Shape,
    to: Shape,
}

impl Window {
    /// The pixels under the window of the output's `pixel`, `None` for those outside.
    fn places(&self, pixel: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let (i, j) = (pixel / self.to.width, pixel % self.to.width);
        let place = |at: usize, step: usize, size: usize| {
            (at * self.stride + step)
                .checked_sub(self.padding)
                .filter(|&p| p < size)
        };
        (0..self.kernel).flat_map(move |u| {
            (0..self.kernel).map(move |v| {
                let row = place(i, u, self.from.height)?;
                Some(row * self.from.width + place(j, v, self.from.width)?)
            })
        })
    }

    /// The sum of the planes' convolutions with a kernel each.
    fn convolved(&self, parts: &[(&Plane, &[f64])]) -> Plane {
        let area = self.kernel * self.kernel;
        let mut even = vec![0.0; area];
        let mut uneven = Vec::new();
        for (plane, kernel) in parts {
            match plane {
                Plane::Uniform(value) => even
                    .iter_mut()
                    .zip(*kernel)
                    .for_each(|(sum, w)| *sum += value * w),
                Plane::Pixels(values) => uneven.push((values, *kernel)),
            }
        }
        if uneven.is_empty() && (self.padding == 0 || even.iter().all(|&sum| sum == 0.0)) {
            return Plane::Uniform(even.iter().sum());
        }
        let values = (0..self.to.height * self.to.width).map(|pixel| {
            let mut sum = 0.0;
            for (tap, place) in self.places(pixel).enumerate() {
                if let Some(place) = place {
                    sum += even[tap];
                    sum += uneven
                        .iter()
                        .map(|(values, kernel)| values[place] * kernel[tap])
                        .sum::<f64>();
                }
            }
            sum
        });
        Plane::Pixels(values.collect())
    }
}

/// The smallest border outside of which every plane is the same along rows and along columns.
fn border(planes: &[Plane], shape: Shape) -> Border {
    let pixels: Vec<&Vec<f64>> = planes
        .iter()
        .filter_map(|plane| match plane {
            Plane::Uniform(_) => None,
            Plane::Pixels(values) => Some(values),
        })
        .collect();
    let (height, width) = (shape.height, shape.width);
    let rows = |a: usize, b: usize| {
        pixels
            .iter()
            .all(|p| p[a * width..(a + 1) * width] == p[b * width..(b + 1) * width])
    };
    let columns = |a: usize, b: usize| {
        pixels
            .iter()
            .all(|p| (0..height).all(|i| p[i * width + a] == p[i * width + b]))
    };
    Border {
        rows: around(height, rows),
        columns: around(width, columns),
    }
}

/// How many of `size` rows at either end are unlike the middle one, with all beyond them.
fn around(size: usize, same: impl Fn(usize, usize) -> bool) -> [usize; 2] {
    let middle = size / 2;
    let before = (0..middle).rev().take_while(|&i| same(i, middle)).count();
    let after = (middle + 1..size).take_while(|&i| same(i, middle)).count();
    [middle - before, size - middle - 1 - after]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A constant of 1 behind a 3x3 kernel of ones, with zeros around: 4 at corners, 6 at edges, 9 inside.
    #[test]
    fn only_the_border_has_numbers_of_its_own() {
        let shape = Shape {
            channels: 1,
            height: 5,
            width: 7,
        };
        let window = Window {
            kernel: 3,
            stride: 1,
            padding: 1,
            from: shape,
            to: shape,
        };
        let plane = window.convolved(&[(&Plane::Uniform(1.0), &[1.0; 9])]);
        assert_eq!((plane.at(0), plane.at(1), plane.at(8)), (4.0, 6.0, 9.0));
        let border = border(&[plane, Plane::Uniform(2.0)], shape);
        assert_eq!((border.rows, border.columns), ([1, 1], [1, 1]));
    }
}
