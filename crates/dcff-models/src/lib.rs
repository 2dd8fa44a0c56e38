//! Convolutional networks, each written once as data.
//!
//! An [`Architecture`] is a plain serde value: named layers, their wiring, the channel spaces they write to and
//! the input size. Everything else is derived from it: the shapes of all maps ([`Architecture::shapes`]), the
//! parameters' names and initial weights, the runnable [`Network`], and — in crates further down — the cost
//! table, the compact network and its `config.json`.
//!
//! ```text
//! Architecture --narrowed(widths)--> Architecture (compact)
//!      \___ Weights::new(full, compact), Program::new(compact, weights): together a Network ___/
//!                        | forward(weights, views, images)  views: Dense, Mix (P.W), Select, Mask
//!                        v
//!                 Trace (logits, maps) --backward(seeds)--> Gradients, ViewGradients
//! ```
//!
//! This crate deliberately does not know why a view looks the way it does: no criterion, rate, schedule or
//! file format is named here.
//!
//! ```
//! use dcff_models::{by_name, shapes::Shape};
//!
//! let vgg = by_name("vgg16")?;
//! let shapes = vgg.shapes()?;
//! assert_eq!(shapes.output_of("features.0"), Some(Shape { channels: 64, height: 32, width: 32 }));
//! # Ok::<(), dcff_models::Error>(())
//! ```

mod architecture;
mod densenet;
mod error;
mod googlenet;
mod inference;
mod initialisation;
mod layers;
mod masks;
mod mobilenet;
mod network;
mod parameter;
mod parameters;
mod plan;
mod profile;
mod program;
mod prune;
mod resnet;
mod shape;
pub mod shapes;
mod spaces;
pub mod testing;
mod trace;
mod unmasked;
mod vgg;
mod view;
mod weights;

pub use architecture::{Architecture, Builder, INPUT, Initialisation, Layer};
pub use densenet::densenet;
pub(crate) use error::internal;
pub use error::{Error, Result};
pub use googlenet::googlenet;
pub use inference::InferenceNetwork;
pub use layers::{
    AvgPool, Conv, Groups, LayerKind, Linear, Norm, Offset, Pool, Scatter, Shortcut, fold_norm,
};
pub use mobilenet::{
    InvertedStage, MobileNetInput, MobileNetV1, MobileNetV2, SeparableStage, mobilenet_v1,
    mobilenet_v2,
};
pub use network::Network;
pub use parameter::{Parameter, ParameterKind};
pub use parameters::parameters;
pub use profile::{Pass, Profile};
pub use program::{Blend, Program};
pub use prune::ChannelGroup;
pub use resnet::{resnet_cifar, resnet18, resnet50};
pub use spaces::Space;
pub use trace::{Gradients, How, Mode, Seeds, Trace, ViewGradients};
pub use unmasked::Constants;
pub use vgg::{VggStage, vgg, vgg16};
pub use view::{View, Views};
pub use weights::Weights;

/// A network this crate can build by name.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name users type, for example `resnet56`.
    pub name: &'static str,
    /// One line for help texts and documentation.
    pub about: &'static str,
    build: fn() -> Architecture,
}

impl Entry {
    /// Builds the dense architecture.
    pub fn build(&self) -> Architecture {
        (self.build)()
    }
}

/// Every network that can be built by name; help, documentation and tests read this list.
pub static ALL: &[Entry] = &[
    Entry {
        name: "vgg16",
        about: "VGG-16 with batch norm and one linear layer, 32x32 images",
        build: vgg16,
    },
    Entry {
        name: "resnet20",
        about: "CIFAR ResNet-20, parameter-free shortcuts",
        build: || resnet_cifar("resnet20", [3; 3]),
    },
    Entry {
        name: "resnet32",
        about: "CIFAR ResNet-32, parameter-free shortcuts",
        build: || resnet_cifar("resnet32", [5; 3]),
    },
    Entry {
        name: "resnet44",
        about: "CIFAR ResNet-44, parameter-free shortcuts",
        build: || resnet_cifar("resnet44", [7; 3]),
    },
    Entry {
        name: "resnet56",
        about: "CIFAR ResNet-56, parameter-free shortcuts",
        build: || resnet_cifar("resnet56", [9; 3]),
    },
    Entry {
        name: "resnet110",
        about: "CIFAR ResNet-110, parameter-free shortcuts",
        build: || resnet_cifar("resnet110", [18; 3]),
    },
    Entry {
        name: "googlenet",
        about: "GoogLeNet (Inception v1 with batch norm), 32x32 images",
        build: googlenet,
    },
    Entry {
        name: "densenet40",
        about: "DenseNet-40, 12 filters a layer, 32x32 images",
        build: || densenet("densenet40", 12, 12),
    },
    Entry {
        name: "resnet18",
        about: "ResNet-18 with basic blocks, 224x224 images",
        build: resnet18,
    },
    Entry {
        name: "resnet50",
        about: "ResNet-50 with bottlenecks, 224x224 images",
        build: resnet50,
    },
    Entry {
        name: "mobilenet-v1",
        about: "MobileNetV1, depthwise convolutions, 224x224 images",
        build: || {
            let list = MobileNetV1::published(MobileNetInput::ImageNet);
            mobilenet_v1("mobilenet-v1", &list)
        },
    },
    Entry {
        name: "mobilenet-v1-cifar",
        about: "MobileNetV1 for 32x32 images",
        build: || {
            let list = MobileNetV1::published(MobileNetInput::Cifar);
            mobilenet_v1("mobilenet-v1-cifar", &list)
        },
    },
    Entry {
        name: "mobilenet-v2",
        about: "MobileNetV2, inverted residuals, 224x224 images",
        build: || {
            let list = MobileNetV2::published(MobileNetInput::ImageNet);
            mobilenet_v2("mobilenet-v2", &list)
        },
    },
    Entry {
        name: "mobilenet-v2-cifar",
        about: "MobileNetV2 for 32x32 images",
        build: || {
            let list = MobileNetV2::published(MobileNetInput::Cifar);
            mobilenet_v2("mobilenet-v2-cifar", &list)
        },
    },
];

/// The dense architecture called `name`.
///
/// # Errors
/// [`Error::UnknownArchitecture`], which lists the known names.
pub fn by_name(name: &str) -> Result<Architecture> {
    ALL.iter()
        .find(|entry| entry.name == name)
        .map(Entry::build)
        .ok_or_else(|| Error::UnknownArchitecture {
            name: name.to_owned(),
            known: ALL
                .iter()
                .map(|entry| entry.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}
