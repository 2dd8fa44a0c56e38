//! The cost of a network some of whose filters are off, as a function of how many each convolution keeps.
//!
//! ```text
//! F(s) = constant + Σ_l a_l s_l + Σ_(k,l) b_kl s_k s_l        s_l: kept filters of layer l
//! ```
//!
//! A convolution costs what its kept filters read of what the layer before it kept, so that the form is linear in every `s_l`: a
//! method that samples masks has its exact value and its exact slope ([`MaskedCost::at`], [`MaskedCost::slopes`]).
//!
//! [`Counting::Public`] is the cost term of the program of KDFS (<https://arxiv.org/abs/2307.00198>), peculiarities
//! included: a unit for every output of a batch norm, no classifier, a 1x1 convolution for every block of an ImageNet ResNet, a depthwise
//! convolution of 1x1 at the size of its input.

use dcff_models::shapes::Shapes;
use dcff_models::{Architecture, Conv, Groups, LayerKind, Result};
use serde::{Deserialize, Serialize};

use crate::{Convention, Form, cost};

/// How the cost of a masked network is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counting {
    /// The multiply-accumulates of the compact network ([`Convention::Macs`]).
    True,
    /// As the program of KDFS counts.
    Public,
}

/// The cost of a network as a function of how many filters its masked convolutions keep.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedCost {
    layers: Vec<String>,
    widths: Vec<u64>,
    base: f64,
    constant: u64,
    single: Vec<u64>,
    /// Positions of two layers, the earlier first, and the factor of their product.
    pairs: Vec<(usize, usize, u64)>,
}

/// The channels of some maps: a number, and those that layers keep.
#[derive(Clone, Debug, Default)]
struct Channels {
    fixed: u64,
    kept_by: Vec<usize>,
}

impl Channels {
    fn fixed(count: usize) -> Self {
        Self {
            fixed: count as u64,
            kept_by: Vec::new(),
        }
    }
}

/// What the program of KDFS divides by, in millions, for the networks that it knows; the numbers come from different counters.
const PUBLIC_BASES: [(&str, f64); 8] = [
    ("resnet56", 125.49),
    ("resnet110", 252.89),
    ("resnet18", 1820.0),
    ("resnet50", 4134.0),
    ("vgg16", 313.73),
    ("densenet40", 282.0),
    ("googlenet", 1520.0),
    ("mobilenet-v2", 327.55),
];

impl MaskedCost {
    /// That of `architecture` with the filters of [`Architecture::maskable`] masked.
    ///
    /// # Errors
    /// When the architecture is unsound, or has grouped convolutions behind masked ones that are not depthwise.
    pub fn new(architecture: &Architecture, counting: Counting) -> Result<Self> {
        let mut count = Count::new(architecture, counting)?;
        let mut channels: Vec<Channels> = Vec::with_capacity(architecture.layers.len());
        let wiring = architecture.wiring()?;
        for (at, inputs) in wiring.iter().enumerate() {
            let read: Vec<Channels> = inputs
                .iter()
                .map(|input| match input {
                    Some(input) => channels[*input].clone(),
                    None => Channels::fixed(architecture.input[0]),
                })
                .collect();
            channels.push(count.layer(at, inputs, &read)?);
        }
        let dense = cost(architecture, Convention::Macs, Form::Full)?.ops() as f64;
        let known = PUBLIC_BASES
            .iter()
            .find(|(name, _)| *name == architecture.name);
        let base = match (counting, known) {
            (Counting::Public, Some((_, millions))) => millions * 1e6,
            _ => dense,
        };
        Ok(Self {
            layers: count
                .masked
                .iter()
                .map(|&at| architecture.layers[at].name.clone())
                .collect(),
            widths: count
                .masked
                .iter()
                .map(|&at| count.shapes.output(at).channels as u64)
                .collect(),
            base,
            constant: count.constant,
            single: count.single,
            pairs: count.pairs,
        })
    }

    /// The masked convolutions, in the order of computation.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// How many filters they have.
    pub fn widths(&self) -> &[u64] {
        &self.widths
    }

    /// What a share of the cost is a share of: the multiply-accumulates of the whole network, or the number in the program of KDFS.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// The cost when the layers keep so many filters.
    pub fn at(&self, kept: &[u64]) -> u64 {
        let single: u64 = self
            .single
            .iter()
            .zip(kept)
            .map(|(factor, kept)| factor * kept)
            .sum();
        let pairs: u64 = self
            .pairs
            .iter()
            .map(|&(a, b, factor)| factor * kept[a] * kept[b])
            .sum();
        self.constant + single + pairs
    }

    /// What one filter more of each layer costs.
    pub fn slopes(&self, kept: &[u64]) -> Vec<u64> {
        let mut slopes = self.single.clone();
        for &(a, b, factor) in &self.pairs {
            slopes[a] += factor * kept[b];
            slopes[b] += factor * kept[a];
        }
        slopes
    }
}

/// A count under way.
struct Count<'a> {
    architecture: &'a Architecture,
    counting: Counting,
    shapes: Shapes,
    masked: Vec<usize>,
    constant: u64,
    single: Vec<u64>,
    pairs: Vec<(usize, usize, u64)>,
    /// Whether there are depthwise convolutions.
    depthwise: bool,
    /// Whether there are convolutions in shortcuts.
    projects: bool,
    /// Sums so far.
    sums: usize,
}

impl<'a> Count<'a> {
    fn new(architecture: &'a Architecture, counting: Counting) -> Result<Self> {
        let masked = architecture.maskable()?;
        let any = |f: fn(&Conv) -> bool| architecture.convs().any(|(_, conv)| f(conv));
        Ok(Self {
            shapes: architecture.shapes()?,
            single: vec![0; masked.len()],
            masked,
            constant: 0,
            pairs: Vec::new(),
            depthwise: any(|conv| conv.groups == Groups::Depthwise),
            projects: any(|conv| conv.groups == Groups::Fixed(1) && !conv.scored),
            sums: 0,
            architecture,
            counting,
        })
    }

    fn is_public(&self) -> bool {
        self.counting == Counting::Public
    }

    /// Adds `per` for every channel of `channels`.
    fn add(&mut self, per: u64, channels: &Channels) {
        self.constant += per * channels.fixed;
        channels
            .kept_by
            .iter()
            .for_each(|&layer| self.single[layer] += per);
    }

    /// Counts the layer at `at`, which reads `read`; the channels of its output.
    fn layer(
        &mut self,
        at: usize,
        inputs: &[Option<usize>],
        read: &[Channels],
    ) -> Result<Channels> {
        let y = self.shapes.output(at);
        let pixels = (y.height * y.width) as u64;
        let first = read.first().cloned().unwrap_or_default();
        Ok(match &self.architecture.layers[at].kind {
            LayerKind::Conv(conv) => self.conv(at, conv, &first)?,
            LayerKind::Linear(linear) => {
                let x = self.shapes.inputs(at)[0];
                if !self.is_public() {
                    self.add((x.height * x.width * linear.features) as u64, &first);
                }
                Channels::fixed(linear.features)
            }
            LayerKind::Add => {
                if self.is_public() && self.projects {
                    self.constant += pixels * self.charged(inputs)?;
                }
                self.sums += 1;
                Channels::fixed(y.channels)
            }
            LayerKind::Shortcut(_) => Channels::fixed(y.channels),
            LayerKind::Concat => Channels {
                fixed: read.iter().map(|channels| channels.fixed).sum(),
                kept_by: read
                    .iter()
                    .flat_map(|channels| channels.kept_by.clone())
                    .collect(),
            },
            _ => first,
        })
    }

    fn conv(&mut self, at: usize, conv: &Conv, read: &Channels) -> Result<Channels> {
        let (x, y) = (self.shapes.inputs(at)[0], self.shapes.output(at));
        let (pixels, window) = (
            (y.height * y.width) as u64,
            (conv.kernel * conv.kernel) as u64,
        );
        let public = self.is_public();
        if let Some(own) = self.masked.iter().position(|&masked| masked == at) {
            self.single[own] += pixels * window * read.fixed;
            for &layer in &read.kept_by {
                self.pairs.push((layer, own, pixels * window));
            }
            let ends_block = self.architecture.ends_block(at)?;
            if public {
                let norm = 1;
                let depthwise = if self.depthwise && !ends_block { 2 } else { 0 };
                self.single[own] += pixels * (norm + depthwise);
            }
            return Ok(match ends_block {
                true => Channels::fixed(y.channels),
                false => Channels {
                    fixed: 0,
                    kept_by: vec![own],
                },
            });
        }
        if conv.groups == Groups::Depthwise && !read.kept_by.is_empty() {
            // The public count has charged it to the filters before it.
            if !public {
                self.add(pixels * window, read);
            }
            return Ok(read.clone());
        }
        let groups = conv.groups.of(x.channels) as u64;
        if groups > 1 && !read.kept_by.is_empty() {
            return Err(dcff_models::Error::Layer {
                layer: self.architecture.layers[at].name.clone(),
                message: format!(
                    "expected one group, or one for each channel, as filters before it are masked, got {groups}"
                ),
            });
        }
        // The public count has the shortcuts' convolutions elsewhere.
        let outputs = y.channels as u64;
        let each = pixels * window * outputs / groups;
        match (public, conv.scored || groups > 1) {
            (false, _) => self.add(each, read),
            (true, true) => {
                self.add(each, read);
                self.constant += pixels * outputs;
            }
            (true, false) => {}
        }
        Ok(Channels::fixed(y.channels))
    }

    /// What the public count charges the shortcut of the sum of `inputs` for a pixel: a convolution from as many channels as the
    /// block's last one reads, and its batch norm. Nothing for a first block without a convolution in its shortcut.
    fn charged(&self, inputs: &[Option<usize>]) -> Result<u64> {
        let wiring = self.architecture.wiring()?;
        let source = |input: &Option<usize>| {
            let norm = (*input)?;
            match self.architecture.layers[norm].kind {
                LayerKind::Norm(_) => wiring[norm].first().copied().flatten(),
                _ => None,
            }
        };
        let convs: Vec<usize> = inputs.iter().filter_map(source).collect();
        let (masked, plain): (Vec<usize>, Vec<usize>) = convs
            .into_iter()
            .partition(|conv| self.masked.contains(conv));
        let Some(&last) = masked.first() else {
            return Ok(0);
        };
        if self.sums == 0 && plain.is_empty() {
            return Ok(0);
        }
        let (x, y) = (self.shapes.inputs(last)[0], self.shapes.output(last));
        Ok(((x.channels + 1) * y.channels) as u64)
    }
}

#[cfg(test)]
mod tests {
    use dcff_models::by_name;

    use super::*;

    fn cost_of(name: &str, counting: Counting) -> MaskedCost {
        MaskedCost::new(&by_name(name).unwrap(), counting).unwrap()
    }

    /// The numbers of the program of KDFS: all filters kept, every second one, none.
    #[test]
    fn the_public_count_is_that_of_the_program() {
        for (name, all, half, none) in [
            ("resnet56", 126_017_536, 47_312_896, 458_752),
            ("resnet110", 253_935_616, 95_346_688, 458_752),
            ("resnet50", 4_564_686_336, 2_087_610_112, 946_419_712),
            ("vgg16", 313_473_024, 78_879_744, 0),
            ("googlenet", 1_524_300_800, 396_017_152, 5_505_024),
        ] {
            let cost = cost_of(name, Counting::Public);
            let widths = cost.widths();
            let halves: Vec<u64> = widths.iter().map(|width| width / 2).collect();
            let zeros = vec![0; widths.len()];
            let got = [widths, &halves, &zeros].map(|kept| cost.at(kept));
            assert_eq!(got, [all, half, none], "{name}");
        }
    }

    #[test]
    fn the_true_count_of_the_whole_network_is_its_multiply_accumulates() {
        for entry in dcff_models::ALL {
            let cost = cost_of(entry.name, Counting::True);
            assert_eq!(cost.at(cost.widths()) as f64, cost.base(), "{}", entry.name);
        }
        // With half of its filters, by hand for the first layers' sizes and by the program for the sum.
        let cost = cost_of("resnet56", Counting::True);
        let half: Vec<u64> = cost.widths().iter().map(|width| width / 2).collect();
        assert_eq!(cost.at(&half), 47_039_104);
    }

    #[test]
    fn a_slope_is_what_one_filter_more_costs() {
        for counting in [Counting::True, Counting::Public] {
            let cost = cost_of("googlenet", counting);
            let kept: Vec<u64> = cost
                .widths()
                .iter()
                .enumerate()
                .map(|(i, w)| w * (i as u64 % 3) / 3)
                .collect();
            let slopes = cost.slopes(&kept);
            for layer in 0..kept.len() {
                let mut more = kept.clone();
                more[layer] += 1;
                assert_eq!(cost.at(&more) - cost.at(&kept), slopes[layer]);
            }
        }
    }
}
