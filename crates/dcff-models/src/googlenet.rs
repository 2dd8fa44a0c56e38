//! GoogLeNet with batch normalisation for 32x32 images.
//!
//! Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, <https://arxiv.org/abs/1409.4842>; in the CIFAR
//! form that arXiv 2107.06916 uses: a 3x3 stem, the 5x5 branch as two 3x3 convolutions.

use crate::architecture::{Architecture, Builder, INPUT, Initialisation};
use crate::layers::LayerKind;

/// Branch widths of an inception module: 1x1; 3x3 reduction and 3x3; 5x5 reduction and 5x5; pool projection.
type Inception = (&'static str, [usize; 6]);

const STAGES: [&[Inception]; 3] = [
    &[
        ("a3", [64, 96, 128, 16, 32, 32]),
        ("b3", [128, 128, 192, 32, 96, 64]),
    ],
    &[
        ("a4", [192, 96, 208, 16, 48, 64]),
        ("b4", [160, 112, 224, 24, 64, 64]),
        ("c4", [128, 128, 256, 24, 64, 64]),
        ("d4", [112, 144, 288, 32, 64, 64]),
        ("e4", [256, 160, 320, 32, 128, 128]),
    ],
    &[
        ("a5", [256, 160, 320, 32, 128, 128]),
        ("b5", [384, 192, 384, 48, 128, 128]),
    ],
];

/// GoogLeNet for 32x32 colour images and ten classes. Every convolution is a channel space of its own.
pub fn googlenet() -> Architecture {
    let mut b = Builder::new("googlenet", [3, 32, 32], Initialisation::Uniform);
    let mut x = unit(&mut b, "pre_layers", 0, 192, 3, INPUT);
    for (i, stage) in STAGES.iter().enumerate() {
        if i > 0 {
            x = b.max_pool(format!("maxpool{}", i + 2), [3, 2, 1], &x);
        }
        for (name, [n1, r3, n3, r5, n5, pool]) in *stage {
            let branch = |k: usize| format!("{name}.b{k}");
            let b1 = unit(&mut b, &branch(1), 0, *n1, 1, &x);
            let b2 = unit(&mut b, &branch(2), 0, *r3, 1, &x);
            let b2 = unit(&mut b, &branch(2), 3, *n3, 3, &b2);
            let b3 = unit(&mut b, &branch(3), 0, *r5, 1, &x);
            let b3 = unit(&mut b, &branch(3), 3, *n5, 3, &b3);
            let b3 = unit(&mut b, &branch(3), 6, *n5, 3, &b3);
            let b4 = b.max_pool(format!("{}.0", branch(4)), [3, 1, 1], &x);
            let b4 = unit(&mut b, &branch(4), 1, *pool, 1, &b4);
            x = b.layer(
                format!("{name}.concat"),
                LayerKind::Concat,
                &[&b1, &b2, &b3, &b4],
            );
        }
    }
    let x = b.avg_pool("avgpool", 8, 1, &x);
    b.linear("linear", 10, &x);
    b.finish()
}

/// Convolution with bias, batch norm and ReLU as modules `path.index` to `path.index+2`.
fn unit(
    b: &mut Builder,
    path: &str,
    index: usize,
    filters: usize,
    kernel: usize,
    input: &str,
) -> String {
    let name = format!("{path}.{index}");
    b.space(&name, filters);
    let x = b.conv(&name, &name, [kernel, 1, kernel / 2], true, input);
    let x = b.norm(format!("{path}.{}", index + 1), &x);
    b.relu(format!("{path}.{}", index + 2), &x)
}
