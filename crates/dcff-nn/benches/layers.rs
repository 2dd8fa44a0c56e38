//! Throughput of the layers of the compact VGG-16 and ResNet-56, batch 256, on one thread.
//!
//! `cargo bench -p dcff-nn` prints a time and a rate per operation. For convolutions the rate is in
//! nominal operations, two per product of direct summation: what Winograd's transforms save shows
//! as a rate beyond the processor's limit. For the others it is in numbers of the input.

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dcff_nn::{
    Activation, ConvConfig, Features, PoolConfig, batch_norm, batch_norm_backward, conv2d,
    conv2d_backward, max_pool2d, max_pool2d_backward,
};

const BATCH: usize = 256;

/// Input channels, filters, input size, stride.
const CONVOLUTIONS: [(usize, usize, usize, usize); 18] = [
    // VGG-16.
    (3, 32, 32, 1),
    (32, 32, 32, 1),
    (32, 76, 16, 1),
    (76, 76, 16, 1),
    (76, 166, 8, 1),
    (166, 166, 8, 1),
    (166, 76, 4, 1),
    (76, 76, 4, 1),
    (76, 76, 2, 1),
    // ResNet-56.
    (3, 16, 32, 1),
    (16, 7, 32, 1),
    (7, 16, 32, 1),
    (16, 14, 32, 2),
    (14, 32, 16, 1),
    (32, 14, 16, 1),
    (32, 28, 16, 2),
    (28, 64, 8, 1),
    (64, 28, 8, 1),
];

/// Channels and size.
const NORMS: [(usize, usize); 6] = [(32, 32), (76, 16), (166, 8), (16, 32), (32, 16), (64, 8)];

fn tensor(dims: &[usize]) -> Tensor {
    let count = dims.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count)
        .map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0)
        .collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).expect("a shape of that many numbers")
}

fn features(channels: usize, size: usize) -> Features {
    Features::from_nchw(&tensor(&[BATCH, channels, size, size])).expect("four dimensions")
}

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d");
    for (from, to, size, stride) in CONVOLUTIONS {
        let cfg = ConvConfig {
            stride,
            padding: 1,
            ..ConvConfig::default()
        };
        let (x, w) = (features(from, size), tensor(&[to, from, 3, 3]));
        let dy = features(to, size / stride);
        let operations = 2 * BATCH * from * to * 9 * (size / stride).pow(2);
        let name = format!("{from}-{to}@{size}/{stride}");
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(format!("forward/{name}"), |b| {
            b.iter(|| conv2d(&x, &w, None, cfg).expect("shapes fit"));
        });
        group.bench_function(format!("weight-gradient/{name}"), |b| {
            b.iter(|| conv2d_backward(&x, &w, false, cfg, &dy, false).expect("shapes fit"));
        });
        group.throughput(Throughput::Elements(2 * operations as u64));
        group.bench_function(format!("both-gradients/{name}"), |b| {
            b.iter(|| conv2d_backward(&x, &w, false, cfg, &dy, true).expect("shapes fit"));
        });
    }
    group.finish();
}

fn norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch_norm");
    for (channels, size) in NORMS {
        let (x, residual) = (features(channels, size), features(channels, size));
        let gamma = tensor(&[channels]);
        let act = Activation::Relu;
        group.throughput(Throughput::Elements(
            (BATCH * channels * size * size) as u64,
        ));
        let name = format!("{channels}@{size}");
        let forward = |residual| batch_norm(&x, &gamma, &gamma, 1e-5, residual, act);
        group.bench_function(format!("relu/{name}"), |b| {
            b.iter(|| forward(None).expect("shapes fit"));
        });
        group.bench_function(format!("residual-relu/{name}"), |b| {
            b.iter(|| forward(Some(&residual)).expect("shapes fit"));
        });
        for (kind, has_residual) in [("relu", false), ("residual-relu", true)] {
            let (y, stats) = forward(has_residual.then_some(&residual)).expect("shapes fit");
            group.bench_function(format!("{kind}-backward/{name}"), |b| {
                b.iter(|| {
                    batch_norm_backward(&x, &y, &gamma, &stats, 1e-5, has_residual, act, &residual)
                        .expect("shapes fit")
                });
            });
        }
    }
    group.finish();
}

fn pools(c: &mut Criterion) {
    let mut group = c.benchmark_group("max_pool2d");
    let cfg = PoolConfig {
        kernel: 2,
        stride: 2,
        padding: 0,
    };
    for (channels, size) in [(32, 32), (76, 16), (166, 8)] {
        let x = features(channels, size);
        let (y, indices) = max_pool2d(&x, cfg).expect("the window fits");
        group.throughput(Throughput::Elements(
            (BATCH * channels * size * size) as u64,
        ));
        group.bench_function(format!("forward/{channels}@{size}"), |b| {
            b.iter(|| max_pool2d(&x, cfg).expect("the window fits"));
        });
        group.bench_function(format!("backward/{channels}@{size}"), |b| {
            b.iter(|| max_pool2d_backward(&indices, &y).expect("shapes fit"));
        });
    }
    group.finish();
}

fn one_thread(c: &mut Criterion) {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()
        .expect("nothing has used the pool yet");
    convolutions(c);
    norms(c);
    pools(c);
}

criterion_group! {
    name = layers;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = one_thread
}
criterion_main!(layers);
