//! DenseNet for small images: every layer reads the maps of all layers before it in its block.
//!
//! Huang et al., *Densely Connected Convolutional Networks*, CVPR 2017, <https://arxiv.org/abs/1608.06993>.

use crate::architecture::{Architecture, Builder, INPUT, Initialisation};
use crate::layers::LayerKind;

/// Filters of the first convolution.
const STEM: usize = 24;

/// A DenseNet without bottlenecks for 32x32 colour images: three blocks of `layers` 3x3 convolutions of `growth` filters each, and
/// between blocks a 1x1 convolution as wide as what it reads and the mean of 2x2 pixels.
///
/// Batch norm and ReLU come before a convolution. Channel spaces in the order of computation: the stem, every convolution.
pub fn densenet(name: &str, layers: usize, growth: usize) -> Architecture {
    let mut b = Builder::new(name, [3, 32, 32], Initialisation::KaimingNormalFanOut);
    b.space("conv1", STEM);
    let mut x = b.conv("conv1", "conv1", [3, 1, 1], false, INPUT);
    let mut channels = STEM;
    for block in 1..=3 {
        for layer in 0..layers {
            let path = format!("dense{block}.{layer}");
            let conv = format!("{path}.conv1");
            b.space(&conv, growth);
            let y = b.norm(format!("{path}.bn1"), &x);
            let y = b.relu(format!("{path}.relu"), &y);
            let y = b.conv(&conv, &conv, [3, 1, 1], false, &y);
            x = b.layer(format!("{path}.concat"), LayerKind::Concat, &[&x, &y]);
            channels += growth;
        }
        if block < 3 {
            let path = format!("trans{block}");
            let conv = format!("{path}.conv1");
            b.space(&conv, channels);
            let y = b.norm(format!("{path}.bn1"), &x);
            let y = b.relu(format!("{path}.relu"), &y);
            let y = b.conv(&conv, &conv, [1, 1, 0], false, &y);
            x = b.avg_pool(format!("{path}.pool"), 2, 2, &y);
        }
    }
    let x = b.norm("bn", &x);
    let x = b.relu("relu", &x);
    let x = b.layer("avgpool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("fc", 10, &x);
    b.finish()
}

#[cfg(test)]
mod tests {
    use crate::{by_name, parameters};

    /// Parameters as the programs of KDFS and of others count them; channels at the ends of the blocks.
    #[test]
    fn has_the_published_size() {
        let net = by_name("densenet40").unwrap();
        let trained = parameters(&net, &net).unwrap().into_iter();
        let trained = trained.filter(|p| p.kind.is_trained());
        let count: usize = trained.map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(count, 1_059_298);
        let shapes = net.shapes().unwrap();
        for (layer, expected) in [
            ("dense1.11.concat", [168, 32, 32]),
            ("dense2.11.concat", [312, 16, 16]),
            ("dense3.11.concat", [456, 8, 8]),
        ] {
            let shape = shapes.output_of(layer).unwrap();
            assert_eq!([shape.channels, shape.height, shape.width], expected);
        }
    }
}
