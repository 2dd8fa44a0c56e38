//! MobileNetV1 and V2.
//!
//! Howard et al., *MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications*, 2017,
//! <https://arxiv.org/abs/1704.04861>, with ReLU6 and PyTorch's names of timm's `mobilenetv1_100`; Sandler et al., *MobileNetV2: Inverted
//! Residuals and Linear Bottlenecks*, CVPR 2018, <https://arxiv.org/abs/1801.04381>, table 2, with the names of torchvision's
//! `mobilenet_v2`. For 32x32 images the first convolution and the first of the stages that halve the maps do not.

use dcff_nn::Activation;

use crate::architecture::{Architecture, Builder, INPUT, Initialisation};
use crate::layers::LayerKind;

/// The images of a MobileNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MobileNetInput {
    /// 224x224 pixels, 1,000 classes.
    ImageNet,
    /// 32x32 pixels, 10 classes.
    Cifar,
}

impl MobileNetInput {
    fn size(self) -> usize {
        match self {
            Self::ImageNet => 224,
            Self::Cifar => 32,
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::ImageNet => 1000,
            Self::Cifar => 10,
        }
    }

    /// The stride of the first convolution, or of the first stage that halves the maps.
    fn early_stride(self) -> usize {
        match self {
            Self::ImageNet => 2,
            Self::Cifar => 1,
        }
    }
}

/// A convolution with batch norm and ReLU6; the depthwise one where a channel space is read and written.
fn with_relu6(b: &mut Builder, conv: &str, [norm, act]: [&str; 2]) -> String {
    let x = b.norm(norm, conv);
    b.activation(act, Activation::Relu6, &x)
}

/// MobileNetV1: 14 channel spaces, the stem's and one for the output of each of 13 blocks.
pub fn mobilenet_v1(name: &str, images: MobileNetInput) -> Architecture {
    let size = images.size();
    let mut b = Builder::new(name, [3, size, size], Initialisation::MobileNet);
    let mut space = "conv_stem".to_owned();
    b.space(&space, 32);
    let stem = [3, images.early_stride(), 1];
    let x = b.conv("conv_stem", &space, stem, false, INPUT);
    let mut x = with_relu6(&mut b, &x, ["bn1", "act1"]);
    let early = images.early_stride();
    let stages = [
        (64, 1, 1),
        (128, early, 2),
        (256, 2, 2),
        (512, 2, 6),
        (1024, 2, 2),
    ];
    for (stage, (width, stride, blocks)) in stages.into_iter().enumerate() {
        for block in 0..blocks {
            let path = format!("blocks.{stage}.{block}");
            let part = |part: &str| format!("{path}.{part}");
            let stride = if block == 0 { stride } else { 1 };
            x = b.depthwise(part("conv_dw"), &space, [3, stride, 1], &x);
            x = with_relu6(&mut b, &x, [&part("bn1"), &part("act1")]);
            space = path.clone();
            b.space(&space, width);
            x = b.conv(part("conv_pw"), &space, [1, 1, 0], false, &x);
            x = with_relu6(&mut b, &x, [&part("bn2"), &part("act2")]);
        }
    }
    let x = b.layer("global_pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("classifier", images.classes(), &x);
    b.finish()
}

/// Expansion, width, blocks and stride of the stages of MobileNetV2.
const V2_STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// MobileNetV2: a channel space for the stem, for the output of each stage, whose blocks are added, for the inside of each block but the
/// first, which expands nothing, and for the last convolution.
pub fn mobilenet_v2(name: &str, images: MobileNetInput) -> Architecture {
    let size = images.size();
    let mut b = Builder::new(name, [3, size, size], Initialisation::MobileNet);
    let mut stream = "features.0".to_owned();
    b.space(&stream, 32);
    let stem = [3, images.early_stride(), 1];
    let x = b.conv("features.0.0", &stream, stem, false, INPUT);
    let mut x = with_relu6(&mut b, &x, ["features.0.1", "features.0.2"]);
    let mut index = 1;
    for (stage, (expansion, width, blocks, stride)) in V2_STAGES.into_iter().enumerate() {
        let incoming = std::mem::replace(&mut stream, format!("stage{}", stage + 1));
        b.space(&stream, width);
        for block in 0..blocks {
            let from = if block == 0 { &incoming } else { &stream };
            let stride = match (block, stage) {
                (0, 1) => images.early_stride(),
                (0, _) => stride,
                _ => 1,
            };
            let path = format!("features.{index}.conv");
            let part = |part: &str| format!("{path}.{part}");
            let mut inner = from.clone();
            let (mut y, mut next) = (x.clone(), 0);
            if expansion > 1 {
                inner = format!("features.{index}");
                b.space(&inner, expansion * b.width(from));
                y = b.conv(part("0.0"), &inner, [1, 1, 0], false, &y);
                y = with_relu6(&mut b, &y, [&part("0.1"), &part("0.2")]);
                next = 1;
            }
            y = b.depthwise(part(&format!("{next}.0")), &inner, [3, stride, 1], &y);
            let names = [part(&format!("{next}.1")), part(&format!("{next}.2"))];
            y = with_relu6(&mut b, &y, [&names[0], &names[1]]);
            y = b.conv(part(&(next + 1).to_string()), &stream, [1, 1, 0], false, &y);
            y = b.norm(part(&(next + 2).to_string()), &y);
            x = match block {
                0 => y,
                _ => b.layer(format!("features.{index}.add"), LayerKind::Add, &[&y, &x]),
            };
            index += 1;
        }
    }
    b.space("features.18", 1280);
    let x = b.conv("features.18.0", "features.18", [1, 1, 0], false, &x);
    let x = with_relu6(&mut b, &x, ["features.18.1", "features.18.2"]);
    let x = b.layer("avg_pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("classifier.1", images.classes(), &x);
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Shapes;

    /// Multiply-accumulates and parameters as counted by the authors of PSS-Net for both networks at full width.
    #[test]
    fn sizes_are_the_published_ones() {
        let count = |architecture: &Architecture| {
            let parameters = crate::parameters(architecture, architecture).unwrap();
            let trained = parameters.iter().filter(|p| p.kind.is_trained());
            trained
                .map(|p| p.shape.iter().product::<usize>())
                .sum::<usize>()
        };
        let v1 = mobilenet_v1("v1", MobileNetInput::ImageNet);
        let v2 = mobilenet_v2("v2", MobileNetInput::ImageNet);
        assert_eq!(count(&v1), 4_231_976);
        assert_eq!(count(&v2), 3_504_872);
        let last = |a: &Architecture, layer: &str| {
            let shapes: Shapes = a.shapes().unwrap();
            let shape = shapes.output_of(layer).unwrap();
            (shape.channels, shape.height)
        };
        assert_eq!(last(&v1, "blocks.4.1.act2"), (1024, 7));
        assert_eq!(last(&v2, "features.18.2"), (1280, 7));
        // Names that torchvision's file has.
        for name in [
            "features.1.conv.0.0",
            "features.1.conv.1",
            "features.2.conv.1.0",
            "features.17.conv.3",
        ] {
            assert!(v2.position(name).is_some(), "{name}");
        }
        let small = mobilenet_v2("small", MobileNetInput::Cifar);
        assert_eq!(last(&small, "features.18.2"), (1280, 4));
        assert_eq!(
            last(
                &mobilenet_v1("small", MobileNetInput::Cifar),
                "blocks.4.1.act2"
            ),
            (1024, 4)
        );
    }
}
