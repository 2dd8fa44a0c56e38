//! Where single filters can be switched off: which convolutions, where their maps end, and where a stage ends.
//!
//! Methods that mask filters one by one (KDFS, <https://arxiv.org/abs/2307.00198>) leave residual streams at full width: a
//! filter at the end of a block that is off adds nothing, or a constant, to the sum.

use std::collections::BTreeMap;

use crate::Result;
use crate::architecture::Architecture;
use crate::layers::{Groups, LayerKind};
use crate::parameters::parameters;
use crate::plan::steps;

impl Architecture {
    /// For each layer the positions of those that read it.
    ///
    /// # Errors
    /// As [`Architecture::wiring`].
    pub fn readers(&self) -> Result<Vec<Vec<usize>>> {
        let mut readers = vec![Vec::new(); self.layers.len()];
        for (position, inputs) in self.wiring()?.iter().enumerate() {
            for &input in inputs.iter().flatten() {
                readers[input].push(position);
            }
        }
        Ok(readers)
    }

    /// The positions of the layers that have outputs of their own; the others are computed together with the layer behind them.
    ///
    /// # Errors
    /// When the architecture is unsound.
    pub fn outputs(&self) -> Result<Vec<usize>> {
        let steps = steps(self, &self.shapes()?, &parameters(self, self)?)?;
        Ok(steps.iter().map(|step| step.output).collect())
    }

    /// The positions of the convolutions whose filters can be masked one by one, in the order of computation: all that are
    /// scored and of one group.
    ///
    /// A convolution that reads the images is one of them only where a single ordinary convolution reads its maps (VGG). In other
    /// networks it begins a stream that several layers read, and stays whole.
    ///
    /// # Errors
    /// As [`Architecture::wiring`].
    pub fn maskable(&self) -> Result<Vec<usize>> {
        let (wiring, readers) = (self.wiring()?, self.readers()?);
        let leads_on = |mut at: usize| {
            while let [reader] = readers[at][..] {
                match &self.layers[reader].kind {
                    LayerKind::Conv(conv) => return conv.groups == Groups::Fixed(1),
                    LayerKind::Norm(_)
                    | LayerKind::Activation { .. }
                    | LayerKind::MaxPool(_)
                    | LayerKind::AvgPool(_) => at = reader,
                    _ => return false,
                }
            }
            false
        };
        let found = self.layers.iter().enumerate().filter(|(at, layer)| {
            let LayerKind::Conv(conv) = &layer.kind else {
                return false;
            };
            let stem = wiring[*at].first() == Some(&None);
            conv.scored && conv.groups == Groups::Fixed(1) && (!stem || leads_on(*at))
        });
        Ok(found.map(|(at, _)| at).collect())
    }

    /// Whether the convolution at `position` ends a block: its maps leave batch norm without an activation, for a stream of full
    /// width (the last convolution of a residual block, the linear end of an inverted one).
    ///
    /// # Errors
    /// As [`Architecture::wiring`].
    pub fn ends_block(&self, position: usize) -> Result<bool> {
        let readers = self.readers()?;
        let is = |at: usize, kind: fn(&LayerKind) -> bool| kind(&self.layers[at].kind);
        Ok(match readers[position][..] {
            [norm] if is(norm, |kind| matches!(kind, LayerKind::Norm(_))) => !readers[norm]
                .iter()
                .any(|&at| is(at, |kind| matches!(kind, LayerKind::Activation { .. }))),
            _ => false,
        })
    }

    /// The positions of the last sum or concatenation of every resolution, behind its activation where that alone reads it: the
    /// maps in which a stage ends. None in a plain chain.
    ///
    /// # Errors
    /// When the architecture is unsound.
    pub fn stage_ends(&self) -> Result<Vec<usize>> {
        let (shapes, readers) = (self.shapes()?, self.readers()?);
        let mut last: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (at, layer) in self.layers.iter().enumerate() {
            if matches!(layer.kind, LayerKind::Add | LayerKind::Concat) {
                let shape = shapes.output(at);
                let behind = match readers[at][..] {
                    [reader]
                        if matches!(self.layers[reader].kind, LayerKind::Activation { .. }) =>
                    {
                        reader
                    }
                    _ => at,
                };
                last.insert((shape.height, shape.width), behind);
            }
        }
        let mut ends: Vec<usize> = last.into_values().collect();
        ends.sort_unstable();
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use crate::by_name;

    #[test]
    fn filters_of_blocks_can_be_masked_and_those_of_a_stem_that_several_read_cannot() {
        // Convolutions, and logits of two a filter, as the program of KDFS has them.
        for (name, convs, filters) in [
            ("resnet56", 54, 4032 / 2),
            ("resnet110", 108, 8064 / 2),
            ("resnet18", 16, 7680 / 2),
            ("resnet50", 48, 45_312 / 2),
            ("densenet40", 38, 1824 / 2),
            ("vgg16", 13, 8448 / 2),
            ("googlenet", 63, 15_424 / 2),
        ] {
            let architecture = by_name(name).unwrap();
            let shapes = architecture.shapes().unwrap();
            let masked = architecture.maskable().unwrap();
            let widths = masked.iter().map(|&at| shapes.output(at).channels);
            assert_eq!(
                (masked.len(), widths.sum::<usize>()),
                (convs, filters),
                "{name}"
            );
        }
    }

    #[test]
    fn blocks_end_before_their_sum_and_stages_at_the_last_sum_of_a_resolution() {
        let resnet = by_name("resnet20").unwrap();
        let at = |name: &str| resnet.position(name).unwrap();
        assert!(resnet.ends_block(at("layer2.0.conv2")).unwrap());
        assert!(!resnet.ends_block(at("layer2.0.conv1")).unwrap());
        let names = |name: &str| -> Vec<String> {
            let architecture = by_name(name).unwrap();
            let ends = architecture.stage_ends().unwrap();
            ends.iter()
                .map(|&at| architecture.layers[at].name.clone())
                .collect()
        };
        assert_eq!(
            names("resnet20"),
            ["layer1.2.relu2", "layer2.2.relu2", "layer3.2.relu2"]
        );
        assert_eq!(names("googlenet"), ["b3.concat", "e4.concat", "b5.concat"]);
        assert_eq!(
            names("densenet40"),
            ["dense1.11.concat", "dense2.11.concat", "dense3.11.concat"]
        );
        assert_eq!(
            names("resnet50"),
            [
                "layer1.2.relu3",
                "layer2.3.relu3",
                "layer3.5.relu3",
                "layer4.2.relu3"
            ]
        );
        assert!(names("vgg16").is_empty());
    }
}
