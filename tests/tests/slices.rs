//! Slices of networks: what they cost, and that one cut out computes what it computes in place.

use candle_core::{Device, Tensor};
use dcff_flops::{Convention, Form, cost};
use dcff_models::{
    Architecture, InvertedStage, MobileNetInput, MobileNetV1, MobileNetV2, Mode, Network, Program,
    SeparableStage, Views, mobilenet_v1, mobilenet_v2, parameters,
};
use dcff_train::methods::pss_net::{Random, Space, Subnet};

/// Configurations of each network.
const CONFIGURATIONS: usize = 1_000;

/// Multiply-accumulates as they are counted by hand: of the first convolution, then from block to block.
struct Count {
    macs: usize,
    side: usize,
    channels: usize,
}

impl Count {
    /// A convolution of `kernel` x `kernel` pixels, padded by half of that.
    fn conv(&mut self, kernel: usize, stride: usize, to: usize) {
        self.side = (self.side + 2 * (kernel / 2) - kernel) / stride + 1;
        self.macs += self.side.pow(2) * kernel.pow(2) * self.channels * to;
        self.channels = to;
    }

    fn depthwise(&mut self, stride: usize) {
        self.side = (self.side - 1) / stride + 1;
        self.macs += self.side.pow(2) * 9 * self.channels;
    }
}

fn of(subnet: &Subnet) -> Count {
    Count {
        macs: 0,
        side: subnet.side,
        channels: 3,
    }
}

/// MobileNetV1's, from widths of its 14 spaces.
fn v1(subnet: &Subnet, widths: &[usize]) -> usize {
    let strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1];
    let mut count = of(subnet);
    count.conv(3, 2, widths[0]);
    for (stride, &to) in strides.into_iter().zip(&widths[1..]) {
        count.depthwise(stride);
        count.conv(1, 1, to);
    }
    count.macs + 1000 * count.channels
}

/// MobileNetV2's, from the widths of its stem and seven stages.
fn v2(subnet: &Subnet, widths: &[usize]) -> usize {
    let stages = [
        (1, 1, 1),
        (6, 2, 2),
        (6, 3, 2),
        (6, 4, 2),
        (6, 3, 1),
        (6, 3, 2),
        (6, 1, 1),
    ];
    let mut count = of(subnet);
    count.conv(3, 2, widths[0]);
    for ((expansion, blocks, stride), &to) in stages.into_iter().zip(&widths[1..]) {
        for block in 0..blocks {
            if expansion > 1 {
                let inside = expansion * count.channels;
                count.conv(1, 1, inside);
            }
            count.depthwise(if block == 0 { stride } else { 1 });
            count.conv(1, 1, to);
        }
    }
    count.conv(1, 1, 1280);
    count.macs + 1000 * count.channels
}

/// Multiply-accumulates of a slice with these widths.
type ByHand = fn(&Subnet, &[usize]) -> usize;

#[test]
fn a_thousand_slices_of_each_network_cost_what_is_counted_by_hand() {
    let images = MobileNetInput::ImageNet;
    let networks: [(Architecture, ByHand); 2] = [
        (mobilenet_v1("v1", &MobileNetV1::published(images)), v1),
        (mobilenet_v2("v2", &MobileNetV2::published(images)), v2),
    ];
    for (full, by_hand) in networks {
        let space = Space::new(&full, 0.75, 8, 128, 8).unwrap();
        let mut random = Random::new(4);
        for _ in 0..CONFIGURATIONS {
            let subnet = space.subnet(&space.uniform(&mut random));
            let narrow = space.architecture(&subnet).unwrap();
            let table = cost(&narrow, Convention::Macs, Form::Compact).unwrap();
            let macs = by_hand(&subnet, &space.free_widths(&subnet));
            assert_eq!(table.ops(), macs as u64, "{}", space.config(&subnet));
            assert_eq!(space.macs(&subnet).unwrap(), macs as u64);
            // Parameters: the numbers that an artefact would hold.
            let tensors = parameters(&narrow, &narrow).unwrap();
            let trained = tensors.iter().filter(|tensor| tensor.kind.is_trained());
            let numbers: usize = trained.map(|t| t.shape.iter().product::<usize>()).sum();
            assert_eq!(table.params(), numbers as u64, "{}", space.config(&subnet));
        }
    }
}

/// Networks of both kinds, small enough for many passes.
fn small() -> [Architecture; 3] {
    let separable = |width, stride| SeparableStage {
        width,
        blocks: 1,
        stride,
    };
    let inverted = |expansion, width, blocks, stride| InvertedStage {
        expansion,
        width,
        blocks,
        stride,
    };
    let (input, classes, stem) = ([3, 24, 24], 5, [16, 2]);
    [
        mobilenet_v1(
            "small v1",
            &MobileNetV1 {
                input,
                classes,
                stem,
                stages: vec![separable(32, 1), separable(48, 2), separable(48, 1)],
            },
        ),
        mobilenet_v2(
            "small v2",
            &MobileNetV2 {
                input,
                classes,
                stem,
                stages: vec![
                    inverted(1, 12, 1, 1),
                    inverted(4, 16, 2, 2),
                    // As wide as the stage before: one stream with it.
                    inverted(2, 16, 2, 1),
                    inverted(3, 24, 1, 1),
                ],
                tail: 40,
            },
        ),
        dcff_models::by_name("resnet20")
            .unwrap()
            .with_input([3, 16, 16]),
    ]
}

#[test]
fn a_slice_cut_out_computes_what_it_computes_in_place() {
    let device = Device::Cpu;
    for full in small() {
        let network = Network::new(&full, &full, 3, &device).unwrap();
        let space = Space::new(&full, 0.4, 4, 8, 4).unwrap();
        let mut random = Random::new(8);
        for _ in 0..20 {
            let subnet = space.subnet(&space.uniform(&mut random));
            let narrow = space.architecture(&subnet).unwrap();
            let program = Program::new(&narrow, network.weights()).unwrap();
            let views = Views::dense();
            let plain = program.extract(network.weights(), &views).unwrap();
            assert_eq!(plain.full(), &narrow);
            let count = 3 * 3 * subnet.side.pow(2);
            let images: Vec<f32> = (0..count)
                .map(|_| random.between(-2.0, 2.0) as f32)
                .collect();
            let shape = (3, 3, subnet.side, subnet.side);
            let images = Tensor::from_vec(images, shape, &device).unwrap();
            for mode in [Mode::Train, Mode::Eval] {
                let how = network.how(mode);
                let in_place = program
                    .forward(network.weights(), &views, &images, &how)
                    .unwrap();
                let (cut, _) = plain.forward(&images, &views, mode).unwrap();
                let off = (in_place.logits() - &cut).unwrap().abs().unwrap();
                let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(
                    off <= 1e-5,
                    "{} {}: {off}",
                    full.name,
                    space.config(&subnet)
                );
            }
        }
    }
}
