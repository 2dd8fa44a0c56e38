//! How many images per second the loader assembles, and how fast built-in data is drawn: `cargo bench -p dcff-data`.
//!
//! A pass of 5,000 images `[3, 32, 32]` in batches of 128, waiting for every batch, with one background thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dcff_data::{
    Augmentation, Loader, LoaderOptions, SyntheticConfig, find, linear_baseline, synthetic,
};

fn loader(c: &mut Criterion) {
    let info = find("synthetic").expect("a known dataset");
    let splits = synthetic(&SyntheticConfig::default()).expect("built-in data");
    let train = Arc::new(splits.train.clone());

    let mut group = c.benchmark_group("pass over 5,000 images");
    group.throughput(Throughput::Elements(train.len() as u64));
    for (name, augmentation) in [
        ("as they are", Augmentation::NONE),
        ("cropped and flipped", Augmentation::STANDARD),
    ] {
        let options = LoaderOptions {
            augmentation,
            ..LoaderOptions::new(info)
        };
        let loader = Loader::new(train.clone(), options).expect("valid options");
        group.bench_function(name, |b| {
            b.iter(|| {
                for batch in loader.epoch(Some(1), 2) {
                    black_box(batch.expect("a batch"));
                }
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("synthetic");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    let config = SyntheticConfig {
        train: 900,
        test: 100,
        seed: 0,
    };
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("draw 1,000 images", |b| {
        b.iter(|| synthetic(black_box(&config)).expect("built-in data"));
    });
    group.bench_function("linear model", |b| b.iter(|| linear_baseline(&splits)));
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
