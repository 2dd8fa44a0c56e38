//! Removing channels from a trained network.
//!
//! Which channels may go alone, and which only together, follows from the wiring:
//!
//! - a channel space loses the same indices in every convolution that writes to it, because their maps are added;
//! - a parameter-free shortcut into a wider space puts its channel `c` at `c + ⌊d/2⌋` there, `d` the difference of the
//!   widths, so a channel of the narrower space lives on in the wider one, and both keep it or neither does;
//! - whoever reads a layer loses the matching input channels, behind a concatenation those of every branch, and a linear
//!   layer all pixels of the channel.
//!
//! The narrow network pads by `⌊d'/2⌋` of its own widths, so of the channels that only the wider space has as many must go
//! before the shortcut's as behind them (one more behind where the number is odd): [`ChannelGroup::parts`].
//! With that the narrow network computes what the wide one does with the other channels' maps set to zero.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use candle_core::Tensor;

use crate::architecture::Architecture;
use crate::layers::{KeptChannels, Selection};
use crate::network::Network;
use crate::view::Views;
use crate::{Error, Result};

/// Channels that are kept or removed together with those they run on into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelGroup {
    /// Positions of the channel spaces that have these channels, each with the number to add to a channel's index in the
    /// first of them. The first has offset 0.
    pub members: Vec<(usize, usize)>,
    /// The channels, as ranges of the first space's indices. Of two ranges as many are kept, or one more of the first.
    pub regions: Vec<Range<usize>>,
}

impl ChannelGroup {
    /// The number of channels.
    pub fn len(&self) -> usize {
        self.regions.iter().map(Range::len).sum()
    }

    /// Whether there are none: a space that a shortcut fills completely.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many channels of each region are kept when `count` are kept in all.
    pub fn parts(&self, count: usize) -> Vec<(Range<usize>, usize)> {
        match &self.regions[..] {
            [behind, before] => vec![
                (behind.clone(), count.div_ceil(2)),
                (before.clone(), count / 2),
            ],
            regions => regions.iter().map(|r| (r.clone(), count)).collect(),
        }
    }
}

impl Architecture {
    /// The groups of channels that are kept or removed together, one per space and in the spaces' order: the channels that
    /// the space has and no narrower one runs on into it.
    ///
    /// # Errors
    /// When a shortcut leads into a narrower space, or two lead into one.
    pub fn channel_groups(&self) -> Result<Vec<ChannelGroup>> {
        let parents = self.parents()?;
        let mut groups = Vec::with_capacity(self.spaces.len());
        for (space, parent) in parents.iter().enumerate() {
            let width = self.spaces[space].width;
            let regions = match parent {
                None => std::iter::once(0..width).collect(),
                Some((from, offset)) => {
                    vec![offset + self.spaces[*from].width..width, 0..*offset]
                }
            };
            let mut members = vec![(space, 0)];
            let mut next = 0;
            while next < members.len() {
                let (from, shift) = members[next];
                for (to, parent) in parents.iter().enumerate() {
                    if let Some((source, offset)) = parent
                        && *source == from
                    {
                        members.push((to, shift + offset));
                    }
                }
                next += 1;
            }
            groups.push(ChannelGroup { members, regions });
        }
        Ok(groups)
    }

    /// The widths of all spaces when `counts` channels of each group are kept.
    pub fn widths_of(&self, groups: &[ChannelGroup], counts: &[usize]) -> Vec<usize> {
        let mut widths = vec![0; self.spaces.len()];
        for (group, count) in groups.iter().zip(counts) {
            for (space, _) in &group.members {
                widths[*space] += count;
            }
        }
        widths
    }

    /// How many channels of each group are kept when the spaces have `widths`.
    ///
    /// # Errors
    /// When no choice of channels gives these widths.
    pub fn counts_of(&self, groups: &[ChannelGroup], widths: &[usize]) -> Result<Vec<usize>> {
        let parents = self.parents()?;
        let mut counts = Vec::with_capacity(groups.len());
        for (space, group) in groups.iter().enumerate() {
            let inherited = parents[space].map_or(0, |(from, _)| widths[from]);
            let fits = |count: &usize| {
                let parts = group.parts(*count);
                parts.iter().all(|(region, kept)| *kept <= region.len())
            };
            let count = widths[space].checked_sub(inherited).filter(fits);
            counts.push(count.ok_or_else(|| {
                let name = |space: usize| &self.spaces[space].name;
                let from = parents[space].map_or(String::new(), |(from, _)| {
                    format!(
                        ": {} channels run on from {}, and at most {} of its own join them evenly",
                        inherited,
                        name(from),
                        2 * group.regions.iter().map(Range::len).min().unwrap_or(0)
                    )
                });
                Error::Widths {
                    architecture: self.name.clone(),
                    message: format!(
                        "{} cannot be pruned to {} of {} channels{from}",
                        name(space),
                        widths[space],
                        self.spaces[space].width
                    ),
                }
            })?);
        }
        Ok(counts)
    }

    /// The kept channels of every space, ascending, from those chosen of each group as indices of its first space.
    pub fn kept_channels(&self, groups: &[ChannelGroup], chosen: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut kept = vec![Vec::new(); self.spaces.len()];
        for (group, chosen) in groups.iter().zip(chosen) {
            for (space, offset) in &group.members {
                kept[*space].extend(chosen.iter().map(|channel| channel + offset));
            }
        }
        kept.iter_mut()
            .for_each(|channels| channels.sort_unstable());
        kept
    }

    /// For each space the one that a shortcut leads from into it, and the offset of its channels.
    fn parents(&self) -> Result<Vec<Option<(usize, usize)>>> {
        let wiring = self.wiring()?;
        let position = |name: &str| self.spaces.iter().position(|space| space.name == name);
        // The space of each layer's output, where it has one.
        let mut of_layer: Vec<Option<usize>> = Vec::with_capacity(self.layers.len());
        let mut parents: Vec<Option<(usize, usize)>> = vec![None; self.spaces.len()];
        for (layer, inputs) in self.layers.iter().zip(&wiring) {
            let read = inputs.first().copied().flatten().and_then(|i| of_layer[i]);
            let rule = layer.kind.rule();
            let to = rule.space(read.map(|space| self.spaces[space].name.as_str()));
            let to = to.and_then(position);
            if let (true, Some(from), Some(to)) = (rule.runs_on(), read, to)
                && from != to
            {
                let (narrow, wide) = (self.spaces[from].width, self.spaces[to].width);
                let parent = wide.checked_sub(narrow).map(|d| (from, d / 2));
                if parent.is_none() || parents[to].is_some_and(|p| Some(p) != parent) {
                    let message = "channels cannot be followed across this shortcut";
                    return Err(Error::layer(&layer.name, message));
                }
                parents[to] = parent;
            }
            of_layer.push(to);
        }
        Ok(parents)
    }

    /// The channels of every layer's output that are left when the spaces keep `kept`, as indices of the wide network.
    ///
    /// # Errors
    /// When maps that are added would keep different channels, or a shortcut would move one.
    fn kept_outputs(&self, kept: &[Vec<usize>]) -> Result<Vec<Vec<usize>>> {
        let (wiring, shapes) = (self.wiring()?, self.shapes()?);
        let of_space = |name: &str| {
            let found = self.spaces.iter().position(|space| space.name == name);
            found.and_then(|space| kept.get(space)).cloned()
        };
        let mut outputs: Vec<Vec<usize>> = Vec::with_capacity(self.layers.len());
        for (position, (layer, inputs)) in self.layers.iter().zip(&wiring).enumerate() {
            let read = inputs.iter().map(|&input| match input {
                Some(input) => outputs[input].clone(),
                None => (0..self.input[0]).collect(),
            });
            let left = layer.kind.rule().kept(&KeptChannels {
                read: read.collect(),
                space: &of_space,
                inputs: shapes.inputs(position),
                output: shapes.output(position),
            });
            outputs.push(left.map_err(|message| Error::layer(&layer.name, message))?);
        }
        Ok(outputs)
    }
}

impl Network {
    /// The plain narrow network that keeps the channels `kept` of each space (ascending) with their weights, batch-norm
    /// parameters and statistics.
    ///
    /// `views` may say what the kept filters of a convolution are made of; where one chooses none they are themselves, masked ones scaled.
    ///
    /// # Errors
    /// When this network computes fewer filters than it has, a channel does not exist, or the channels do not fit together.
    pub fn pruned(&self, kept: &[Vec<usize>], views: &Views) -> Result<Self> {
        let wide = self.compact();
        let fail = |message: String| Error::Widths {
            architecture: wide.name.clone(),
            message,
        };
        if self.full() != wide {
            return Err(fail(
                "expected a network that computes all its filters".into(),
            ));
        }
        if kept.len() != wide.spaces.len() {
            let (expected, got) = (wide.spaces.len(), kept.len());
            return Err(fail(format!(
                "expected kept channels of {expected} spaces, got {got}"
            )));
        }
        for (space, channels) in wide.spaces.iter().zip(kept) {
            let ascending = channels.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || channels.last().is_some_and(|&last| last >= space.width) {
                return Err(fail(format!(
                    "{}: expected ascending channels below {}, got {channels:?}",
                    space.name, space.width
                )));
            }
        }
        let outputs = wide.kept_outputs(kept)?;
        let narrow = wide.narrowed(&kept.iter().map(Vec::len).collect::<Vec<_>>())?;
        let (wiring, shapes) = (wide.wiring()?, wide.shapes()?);
        let device = self.device();
        let mut state: BTreeMap<String, Tensor> = self.state()?;
        for (position, layer) in wide.layers.iter().enumerate() {
            let input = match wiring[position].first().copied().flatten() {
                Some(input) => outputs[input].clone(),
                None => (0..wide.input[0]).collect(),
            };
            let mut change = |suffix: &str, f: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<()> {
                if let Some(tensor) = state.get_mut(&format!("{}.{suffix}", layer.name)) {
                    *tensor = f(tensor)?.contiguous()?;
                }
                Ok(())
            };
            layer.kind.rule().select(&mut Selection {
                input: &input,
                output: &outputs[position],
                shape: shapes.inputs(position)[0],
                view: views.get(&layer.name),
                change: &mut change,
            })?;
        }
        let mut network = Self::new(&narrow, &narrow, 0, device)?;
        network.load(&state.into_iter().collect::<HashMap<_, _>>())?;
        network.set_precision(self.precision());
        network.set_convolution(self.convolution());
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{largest, logits, noise, trained};
    use crate::{LayerKind, by_name};

    /// Every channel group keeps `share` of its channels, in an order without structure.
    fn choose(architecture: &Architecture, share: f64) -> Vec<Vec<usize>> {
        let groups = architecture.channel_groups().unwrap();
        let chosen: Vec<Vec<usize>> = groups
            .iter()
            .enumerate()
            .map(|(seed, group)| {
                let count = (group.len() as f64 * share) as usize;
                let pick = |(region, count): (Range<usize>, usize)| {
                    let order = noise(region.end, seed);
                    let mut channels: Vec<usize> = region.collect();
                    channels.sort_by(|&a, &b| order[a].total_cmp(&order[b]));
                    channels.truncate(count);
                    channels
                };
                group.parts(count).into_iter().flat_map(pick).collect()
            })
            .collect();
        architecture.kept_channels(&groups, &chosen)
    }

    /// The network with the maps of all channels that are not kept set to zero behind their batch norm.
    fn silenced(network: &Network, kept: &[Vec<usize>]) -> Network {
        let architecture = network.compact();
        let outputs = architecture.kept_outputs(kept).unwrap();
        let mut state: HashMap<String, Tensor> = network.state().unwrap().into_iter().collect();
        for (position, layer) in architecture.layers.iter().enumerate() {
            if matches!(layer.kind, LayerKind::Norm(_)) {
                for suffix in ["weight", "bias"] {
                    let tensor = state.get_mut(&format!("{}.{suffix}", layer.name)).unwrap();
                    let mut values = tensor.to_vec1::<f32>().unwrap();
                    for (channel, value) in values.iter_mut().enumerate() {
                        if !outputs[position].contains(&channel) {
                            *value = 0.0;
                        }
                    }
                    *tensor = Tensor::new(values, &Device::Cpu).unwrap();
                }
            }
        }
        let mut silent = network.deep_copy().unwrap();
        silent.load(&state).unwrap();
        silent
    }

    #[test]
    fn a_pruned_network_is_the_wide_one_with_the_other_channels_silent() {
        for (name, shares) in [
            ("vgg16", &[0.4][..]),
            ("resnet20", &[0.3, 0.5, 0.9]),
            ("resnet56", &[0.6]),
            ("googlenet", &[0.35]),
        ] {
            let architecture = by_name(name).unwrap();
            let network = trained(&architecture).unwrap();
            for &share in shares {
                let kept = choose(&architecture, share);
                let pruned = network.pruned(&kept, &Views::dense()).unwrap();
                assert!(
                    pruned.compact().widths().iter().sum::<usize>()
                        < architecture.widths().iter().sum()
                );
                let (narrow, wide) = (
                    logits(&pruned).unwrap(),
                    logits(&silenced(&network, &kept)).unwrap(),
                );
                let difference = largest(narrow.iter().zip(&wide).map(|(a, b)| a - b));
                let size = largest(wide.into_iter());
                assert!(
                    size > 0.0 && difference <= 2e-5 * size,
                    "{name} at {share}: {difference} of {size}"
                );
            }
        }
    }

    #[test]
    fn a_network_that_keeps_everything_is_itself() {
        let architecture = by_name("resnet20").unwrap();
        let network = trained(&architecture).unwrap();
        let kept = choose(&architecture, 1.0);
        let same = network.pruned(&kept, &Views::dense()).unwrap();
        assert_eq!(logits(&network).unwrap(), logits(&same).unwrap());
        // Pruned in two steps or in one is the same.
        let halved = network
            .pruned(&choose(&architecture, 0.5), &Views::dense())
            .unwrap();
        let again = choose(halved.compact(), 0.5);
        assert!(halved.pruned(&again, &Views::dense()).is_ok());
    }

    #[test]
    fn streams_of_residual_networks_run_on() {
        let architecture = by_name("resnet20").unwrap();
        let groups = architecture.channel_groups().unwrap();
        let stage = |name: &str| {
            let found = architecture.spaces.iter().position(|s| s.name == name);
            found.unwrap()
        };
        let [one, two, three] = ["layer1", "layer2", "layer3"].map(stage);
        // 16 channels, in the middle of 32, in the middle of 64.
        assert_eq!(groups[one].members, [(one, 0), (two, 8), (three, 24)]);
        assert_eq!(groups[two].members, [(two, 0), (three, 16)]);
        assert_eq!(groups[two].regions, [24..32, 0..8]);
        assert_eq!(groups[three].regions, [48..64, 0..16]);
        assert_eq!(groups[0].members, [(0, 0)]);
        let counts: Vec<usize> = groups.iter().map(|group| group.len() / 2).collect();
        let widths = architecture.widths_of(&groups, &counts);
        assert_eq!((widths[one], widths[two], widths[three]), (8, 16, 32));
        assert_eq!(architecture.counts_of(&groups, &widths).unwrap(), counts);
    }

    #[test]
    fn refuses_widths_that_no_choice_of_channels_gives() {
        let architecture = by_name("resnet20").unwrap();
        let groups = architecture.channel_groups().unwrap();
        let mut widths = architecture.widths();
        let stage = architecture.spaces.iter().position(|s| s.name == "layer1");
        widths[stage.unwrap()] = 8;
        assert_eq!(
            architecture
                .counts_of(&groups, &widths)
                .unwrap_err()
                .to_string(),
            "resnet20: layer2 cannot be pruned to 32 of 32 channels: 8 channels run on from layer1, and at most 16 of \
             its own join them evenly"
        );
        let network = Network::new(&architecture, &architecture, 1, &Device::Cpu).unwrap();
        let mut kept = choose(&architecture, 1.0);
        kept[stage.unwrap()].truncate(8);
        let error = network.pruned(&kept, &Views::dense()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer2.0.shortcut: would move a channel: the kept ones do not line up"
        );
        kept[0] = vec![3, 2];
        let error = network.pruned(&kept, &Views::dense()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected ascending channels below 16")
        );
    }
}
