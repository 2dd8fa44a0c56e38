//! VGG with batch normalisation for 32x32 images.
//!
//! Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015,
//! <https://arxiv.org/abs/1409.1556>; the CIFAR form with one linear layer that arXiv 2107.06916 uses.

use crate::architecture::{Architecture, Builder, INPUT, Initialisation};

/// One entry of a VGG configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VggStage {
    /// Convolution 3x3 with this many filters, batch norm, ReLU.
    Conv(usize),
    /// Max pooling 2x2, stride 2.
    MaxPool,
}

/// A VGG for 32x32 colour images and ten classes.
///
/// Modules are numbered as in `torch.nn.Sequential`: `features.0` convolution, `features.1` batch norm,
/// `features.2` ReLU, and so on; a 1x1 average pool and `classifier` follow.
pub fn vgg(name: &str, stages: &[VggStage]) -> Architecture {
    let mut b = Builder::new(name, [3, 32, 32], Initialisation::Uniform);
    let mut index = 0;
    let mut next = || {
        index += 1;
        format!("features.{}", index - 1)
    };
    let mut x = INPUT.to_owned();
    for stage in stages {
        match *stage {
            VggStage::Conv(filters) => {
                let name = next();
                b.space(&name, filters);
                x = b.conv(&name, &name, [3, 1, 1], true, &x);
                x = b.norm(next(), &x);
                x = b.relu(next(), &x);
            }
            VggStage::MaxPool => x = b.max_pool(next(), [2, 2, 0], &x),
        }
    }
    let x = b.avg_pool(next(), 1, 1, &x);
    b.linear("classifier", 10, &x);
    b.finish()
}

/// VGG-16: thirteen convolutions in five stages.
pub fn vgg16() -> Architecture {
    use VggStage::{Conv as C, MaxPool as M};
    let stages = [
        C(64),
        C(64),
        M,
        C(128),
        C(128),
        M,
        C(256),
        C(256),
        C(256),
        M,
        C(512),
        C(512),
        C(512),
        M,
        C(512),
        C(512),
        C(512),
        M,
    ];
    vgg("vgg16", &stages)
}
