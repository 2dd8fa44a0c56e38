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

/// Blocks of one width: a depthwise convolution, and a 1x1 one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeparableStage {
    /// Channels of the blocks' outputs.
    pub width: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The stride of the first block.
    pub stride: usize,
}

/// Blocks that widen their input, convolve every channel apart and narrow it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvertedStage {
    /// How many times as wide as its input the inside of a block is; 1 for blocks that widen nothing.
    pub expansion: usize,
    /// Channels of the blocks' outputs.
    pub width: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The stride of the first block.
    pub stride: usize,
}

/// A network of the kind of MobileNetV1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MobileNetV1 {
    /// Channels, height and width of the images.
    pub input: [usize; 3],
    /// The number of logits.
    pub classes: usize,
    /// Filters and stride of the first convolution.
    pub stem: [usize; 2],
    /// The blocks.
    pub stages: Vec<SeparableStage>,
}

/// A network of the kind of MobileNetV2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MobileNetV2 {
    /// Channels, height and width of the images.
    pub input: [usize; 3],
    /// The number of logits.
    pub classes: usize,
    /// Filters and stride of the first convolution.
    pub stem: [usize; 2],
    /// The blocks.
    pub stages: Vec<InvertedStage>,
    /// Filters of the last convolution.
    pub tail: usize,
}

impl MobileNetV1 {
    /// The published network.
    pub fn published(images: MobileNetInput) -> Self {
        let early = images.early_stride();
        let stages = [
            (64, 1, 1),
            (128, 2, early),
            (256, 2, 2),
            (512, 6, 2),
            (1024, 2, 2),
        ];
        Self {
            input: [3, images.size(), images.size()],
            classes: images.classes(),
            stem: [32, early],
            stages: stages
                .map(|(width, blocks, stride)| SeparableStage {
                    width,
                    blocks,
                    stride,
                })
                .into(),
        }
    }
}

impl MobileNetV2 {
    /// The published network.
    pub fn published(images: MobileNetInput) -> Self {
        let early = images.early_stride();
        let stages = [
            (1, 16, 1, 1),
            (6, 24, 2, early),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ];
        Self {
            input: [3, images.size(), images.size()],
            classes: images.classes(),
            stem: [32, early],
            stages: stages
                .map(|(expansion, width, blocks, stride)| InvertedStage {
                    expansion,
                    width,
                    blocks,
                    stride,
                })
                .into(),
            tail: 1280,
        }
    }
}

/// A convolution with batch norm and ReLU6; the depthwise one where a channel space is read and written.
fn with_relu6(b: &mut Builder, conv: &str, [norm, act]: [&str; 2]) -> String {
    let x = b.norm(norm, conv);
    b.activation(act, Activation::Relu6, &x)
}

/// MobileNetV1: a channel space for the stem and one for the output of each block.
pub fn mobilenet_v1(name: &str, of: &MobileNetV1) -> Architecture {
    let mut b = Builder::new(name, of.input, Initialisation::MobileNet);
    let mut space = "conv_stem".to_owned();
    let [width, stride] = of.stem;
    b.space(&space, width);
    let x = b.conv("conv_stem", &space, [3, stride, 1], false, INPUT);
    let mut x = with_relu6(&mut b, &x, ["bn1", "act1"]);
    for (number, stage) in of.stages.iter().enumerate() {
        for block in 0..stage.blocks {
            let path = format!("blocks.{number}.{block}");
            let part = |part: &str| format!("{path}.{part}");
            let stride = if block == 0 { stage.stride } else { 1 };
            x = b.depthwise(part("conv_dw"), &space, [3, stride, 1], &x);
            x = with_relu6(&mut b, &x, [&part("bn1"), &part("act1")]);
            space = path.clone();
            b.space(&space, stage.width);
            x = b.conv(part("conv_pw"), &space, [1, 1, 0], false, &x);
            x = with_relu6(&mut b, &x, [&part("bn2"), &part("act2")]);
        }
    }
    let x = b.layer("global_pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("classifier", of.classes, &x);
    b.finish()
}

/// MobileNetV2: a channel space for the stem, for the output of each stage, whose blocks are added, for the inside of each block that
/// expands, and for the last convolution.
///
/// A stage as wide as what it reads, with stride 1, adds that to its first block, too: it then has no channel space of its own.
pub fn mobilenet_v2(name: &str, of: &MobileNetV2) -> Architecture {
    let mut b = Builder::new(name, of.input, Initialisation::MobileNet);
    let mut stream = "features.0".to_owned();
    let [width, stride] = of.stem;
    b.space(&stream, width);
    let x = b.conv("features.0.0", &stream, [3, stride, 1], false, INPUT);
    let mut x = with_relu6(&mut b, &x, ["features.0.1", "features.0.2"]);
    let mut index = 1;
    for (number, stage) in of.stages.iter().enumerate() {
        let incoming = stream.clone();
        let goes_on = stage.stride == 1 && stage.width == b.width(&incoming);
        if !goes_on {
            stream = format!("stage{}", number + 1);
            b.space(&stream, stage.width);
        }
        for block in 0..stage.blocks {
            let from = if block == 0 { &incoming } else { &stream };
            let stride = if block == 0 { stage.stride } else { 1 };
            let path = format!("features.{index}.conv");
            let part = |part: &str| format!("{path}.{part}");
            let mut inner = from.clone();
            let (mut y, mut next) = (x.clone(), 0);
            if stage.expansion > 1 {
                inner = format!("features.{index}");
                b.space(&inner, stage.expansion * b.width(from));
                y = b.conv(part("0.0"), &inner, [1, 1, 0], false, &y);
                y = with_relu6(&mut b, &y, [&part("0.1"), &part("0.2")]);
                next = 1;
            }
            y = b.depthwise(part(&format!("{next}.0")), &inner, [3, stride, 1], &y);
            let names = [part(&format!("{next}.1")), part(&format!("{next}.2"))];
            y = with_relu6(&mut b, &y, [&names[0], &names[1]]);
            y = b.conv(part(&(next + 1).to_string()), &stream, [1, 1, 0], false, &y);
            y = b.norm(part(&(next + 2).to_string()), &y);
            x = match block > 0 || goes_on {
                false => y,
                true => b.layer(format!("features.{index}.add"), LayerKind::Add, &[&y, &x]),
            };
            index += 1;
        }
    }
    let path = format!("features.{index}");
    let part = |part: &str| format!("{path}.{part}");
    b.space(&path, of.tail);
    let x = b.conv(part("0"), &path, [1, 1, 0], false, &x);
    let x = with_relu6(&mut b, &x, [&part("1"), &part("2")]);
    let x = b.layer("avg_pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("classifier.1", of.classes, &x);
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
        let v1 = mobilenet_v1("v1", &MobileNetV1::published(MobileNetInput::ImageNet));
        let v2 = mobilenet_v2("v2", &MobileNetV2::published(MobileNetInput::ImageNet));
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
        let small = mobilenet_v2("small", &MobileNetV2::published(MobileNetInput::Cifar));
        assert_eq!(last(&small, "features.18.2"), (1280, 4));
        assert_eq!(
            last(
                &mobilenet_v1("small", &MobileNetV1::published(MobileNetInput::Cifar)),
                "blocks.4.1.act2"
            ),
            (1024, 4)
        );
    }

    #[test]
    fn a_stage_as_wide_as_the_one_before_goes_on_in_its_stream() {
        let stage = |width, stride| InvertedStage {
            expansion: 2,
            width,
            blocks: 1,
            stride,
        };
        let tiny = mobilenet_v2(
            "tiny",
            &MobileNetV2 {
                input: [3, 8, 8],
                classes: 4,
                stem: [16, 1],
                stages: vec![stage(8, 1), stage(8, 1), stage(8, 2)],
                tail: 32,
            },
        );
        let spaces: Vec<&str> = tiny.spaces.iter().map(|s| s.name.as_str()).collect();
        let expected = [
            "features.0",
            "stage1",
            "features.1",
            "features.2",
            "stage3",
            "features.3",
            "features.4",
        ];
        assert_eq!(spaces, expected);
        assert!(tiny.position("features.2.add").is_some());
        assert!(tiny.position("features.3.add").is_none());
    }
}
