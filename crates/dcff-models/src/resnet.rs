//! Residual networks: the CIFAR family and ResNet-18 with basic blocks, ResNet-50 with bottlenecks.
//!
//! He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, <https://arxiv.org/abs/1512.03385>.

use crate::architecture::{Architecture, Builder, INPUT, Initialisation};
use crate::layers::{Conv, Groups, LayerKind, Shortcut};

/// A CIFAR ResNet of depth `2 * (blocks[0] + blocks[1] + blocks[2]) + 2`, basic blocks, for 32x32 colour images.
///
/// Channel spaces, in the order of the published compression rates: the first convolution of every block, then
/// one per stage. The stem writes to the space of the first stage. Where resolution or width change, the
/// shortcut has no parameters (see [`Shortcut`]).
pub fn resnet_cifar(name: &str, blocks: [usize; 3]) -> Architecture {
    let mut b = Builder::new(name, [3, 32, 32], Initialisation::KaimingNormalFanIn);
    let stages: Vec<(String, usize, usize)> = blocks
        .iter()
        .zip([16, 32, 64])
        .enumerate()
        .map(|(i, (&count, width))| (format!("layer{}", i + 1), width, count))
        .collect();
    for (stage, width, count) in &stages {
        for block in 0..*count {
            b.space(&format!("{stage}.{block}.conv1"), *width);
        }
    }
    for (stage, width, _) in &stages {
        b.space(stage, *width);
    }
    let x = b.conv("conv1", "layer1", [3, 1, 1], false, INPUT);
    let x = b.norm("bn1", &x);
    let mut x = b.relu("relu", &x);
    for (i, (stage, _, count)) in stages.iter().enumerate() {
        for block in 0..*count {
            let path = format!("{stage}.{block}");
            let changes = block == 0 && i > 0;
            let stride = if changes { 2 } else { 1 };
            let shortcut = |b: &mut Builder, x: &str| match changes {
                false => x.to_owned(),
                true => {
                    let shortcut = Shortcut {
                        stride,
                        space: stage.clone(),
                    };
                    let name = format!("{path}.shortcut");
                    b.layer(name, LayerKind::Shortcut(shortcut), &[x])
                }
            };
            x = basic_block(&mut b, &path, stage, stride, &x, shortcut);
        }
    }
    let x = b.layer("avg_pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("fc", 10, &x);
    b.finish()
}

/// ResNet-18 for 224x224 images and 1000 classes: basic blocks, and a 1x1 convolution in the shortcut where width and resolution change.
///
/// Channel spaces: the first convolutions of the eight blocks, the four stages; the stem writes to the first stage's.
pub fn resnet18() -> Architecture {
    let name = "resnet18";
    let mut b = Builder::new(name, [3, 224, 224], Initialisation::KaimingNormalFanOut);
    let stages = [64, 128, 256, 512].into_iter().enumerate();
    let stages: Vec<(usize, usize)> = stages.map(|(i, width)| (i + 1, width)).collect();
    for (stage, width) in &stages {
        for block in 0..2 {
            b.space(&format!("layer{stage}.{block}.conv1"), *width);
        }
    }
    for (stage, width) in &stages {
        b.space(&format!("layer{stage}"), *width);
    }
    let x = b.conv("conv1", "layer1", [7, 2, 3], false, INPUT);
    let x = b.norm("bn1", &x);
    let x = b.relu("relu", &x);
    let mut x = b.max_pool("maxpool", [3, 2, 1], &x);
    for (number, _) in stages {
        let stage = format!("layer{number}");
        for block in 0..2 {
            let path = format!("{stage}.{block}");
            let changes = block == 0 && number > 1;
            let stride = if changes { 2 } else { 1 };
            let shortcut = |b: &mut Builder, x: &str| match changes {
                false => x.to_owned(),
                true => downsample(b, &path, &stage, stride, x),
            };
            x = basic_block(&mut b, &path, &stage, stride, &x, shortcut);
        }
    }
    let x = b.avg_pool("avgpool", 7, 1, &x);
    b.linear("fc", 1000, &x);
    b.finish()
}

/// Two 3x3 convolutions, the first with the block's stride and a channel space of its own, and what `shortcut` makes of `x` added to them.
fn basic_block(
    b: &mut Builder,
    path: &str,
    stage: &str,
    stride: usize,
    x: &str,
    shortcut: impl FnOnce(&mut Builder, &str) -> String,
) -> String {
    let inner = format!("{path}.conv1");
    let y = b.conv(&inner, &inner, [3, stride, 1], false, x);
    let y = b.norm(format!("{path}.bn1"), &y);
    let y = b.relu(format!("{path}.relu1"), &y);
    let y = b.conv(format!("{path}.conv2"), stage, [3, 1, 1], false, &y);
    let y = b.norm(format!("{path}.bn2"), &y);
    let x = shortcut(b, x);
    let sum = b.layer(format!("{path}.add"), LayerKind::Add, &[&y, &x]);
    b.relu(format!("{path}.relu2"), &sum)
}

/// The convolution and batch norm of a shortcut that changes width or resolution; it is as wide as its stage from the start.
fn downsample(b: &mut Builder, path: &str, stage: &str, stride: usize, x: &str) -> String {
    let conv = Conv {
        space: stage.to_owned(),
        kernel: 1,
        stride,
        padding: 0,
        groups: Groups::Fixed(1),
        bias: false,
        scored: false,
    };
    let x = b.layer(format!("{path}.downsample.0"), LayerKind::Conv(conv), &[x]);
    b.norm(format!("{path}.downsample.1"), &x)
}

/// ResNet-50 for 224x224 images and 1000 classes; the 3x3 convolution of a block carries its stride.
///
/// Channel spaces, in the order of the published compression rates: the stem, the first convolutions of the
/// sixteen blocks, their second convolutions, the four stages.
pub fn resnet50() -> Architecture {
    let stages: [(usize, usize); 4] = [(3, 64), (4, 128), (6, 256), (3, 512)];
    let paths: Vec<(usize, usize, String)> = stages
        .iter()
        .enumerate()
        .flat_map(|(i, &(count, width))| {
            (0..count).map(move |block| (width, block, format!("layer{}.{block}", i + 1)))
        })
        .collect();
    let mut b = Builder::new(
        "resnet50",
        [3, 224, 224],
        Initialisation::KaimingNormalFanOut,
    );
    b.space("conv1", 64);
    for conv in ["conv1", "conv2"] {
        for (width, _, path) in &paths {
            b.space(&format!("{path}.{conv}"), *width);
        }
    }
    for (i, (_, width)) in stages.iter().enumerate() {
        b.space(&format!("layer{}", i + 1), 4 * width);
    }
    let x = b.conv("conv1", "conv1", [7, 2, 3], false, INPUT);
    let x = b.norm("bn1", &x);
    let x = b.relu("relu", &x);
    let mut x = b.max_pool("maxpool", [3, 2, 1], &x);
    for (_, block, path) in &paths {
        let (stage, _) = path.split_once('.').unwrap_or((path, ""));
        let stride = if *block == 0 && stage != "layer1" {
            2
        } else {
            1
        };
        let (conv1, conv2) = (format!("{path}.conv1"), format!("{path}.conv2"));
        let y = b.conv(&conv1, &conv1, [1, 1, 0], false, &x);
        let y = b.norm(format!("{path}.bn1"), &y);
        let y = b.relu(format!("{path}.relu1"), &y);
        let y = b.conv(&conv2, &conv2, [3, stride, 1], false, &y);
        let y = b.norm(format!("{path}.bn2"), &y);
        let y = b.relu(format!("{path}.relu2"), &y);
        let y = b.conv(format!("{path}.conv3"), stage, [1, 1, 0], false, &y);
        let y = b.norm(format!("{path}.bn3"), &y);
        if *block == 0 {
            x = downsample(&mut b, path, stage, stride, &x);
        }
        let sum = b.layer(format!("{path}.add"), LayerKind::Add, &[&y, &x]);
        x = b.relu(format!("{path}.relu3"), &sum);
    }
    let x = b.avg_pool("avgpool", 7, 1, &x);
    b.linear("fc", 1000, &x);
    b.finish()
}
