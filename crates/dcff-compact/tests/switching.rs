//! A bundle: written and read again, its slices side by side over one set of weights, and what is missing from it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use dcff_compact::{Artefact, Bundle, Preprocessing, STATISTICS, Slice};
use dcff_models::{
    Architecture, Blend, InvertedStage, MobileNetV2, Mode, Network, Views, mobilenet_v2,
};

fn tiny() -> Architecture {
    let stage = |expansion, width, blocks, stride| InvertedStage {
        expansion,
        width,
        blocks,
        stride,
    };
    mobilenet_v2(
        "tiny",
        &MobileNetV2 {
            input: [3, 16, 16],
            classes: 3,
            stem: [8, 1],
            stages: vec![stage(1, 6, 1, 1), stage(2, 8, 2, 2)],
            tail: 16,
        },
    )
}

fn images(side: usize) -> Tensor {
    let count = 4 * 3 * side * side;
    let values = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
    values.sin().unwrap().reshape((4, 3, side, side)).unwrap()
}

/// A bundle of three slices, each with statistics of its own images.
fn bundle() -> Bundle {
    let full = tiny();
    let network = Network::new(&full, &full, 5, &Device::Cpu).unwrap();
    let preprocessing = Preprocessing {
        input_size: full.input,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        interpolation: "bilinear".into(),
        crop_pct: 1.0,
        num_classes: 3,
        label_names: (0..3).map(|class| class.to_string()).collect(),
    };
    let whole = Artefact::new(&network, &Views::dense(), preprocessing, BTreeMap::new()).unwrap();
    let slices = [(1.0, 16, 300), (0.5, 12, 100), (0.75, 16, 200)].map(|(share, side, macs)| {
        let of = |width: usize| (width as f64 * share) as usize;
        let mut widths = full.widths();
        // The insides are twice as wide as what they read; the last convolution stays.
        for (space, width) in full.spaces.iter().zip(&mut widths) {
            if space.name != "features.4" {
                *width = of(*width);
            }
        }
        let slice = Slice {
            config: format!("{share}"),
            input: [3, side, side],
            widths,
            macs,
            target: macs,
            score: Some(-share),
        };
        let mut plain = slice.cut(&network).unwrap();
        let (_, trace) = plain
            .forward(&images(side), &Views::dense(), Mode::Train)
            .unwrap();
        plain.move_statistics(&trace, Blend::Cumulative(0)).unwrap();
        (slice, plain)
    });
    Bundle::new(whole, slices.into()).unwrap()
}

#[test]
fn every_slice_computes_what_its_own_network_does_and_changing_over_allocates_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("bundle");
    bundle().save(&path).unwrap();
    assert!(Bundle::is_at(&path));
    let bundle = Bundle::load(&path).unwrap();
    let costs: Vec<u64> = bundle.slices().iter().map(|slice| slice.macs).collect();
    assert_eq!(costs, [100, 200, 300]);
    let mut ready = bundle.open(&Device::Cpu).unwrap();
    let mut all = Vec::new();
    for (number, slice) in bundle.slices().iter().enumerate() {
        assert!(ready.switch(slice.macs + 99));
        assert_eq!(
            (ready.active(), bundle.within(slice.macs + 99)),
            (number, Ok(number))
        );
        let images = images(slice.input[1]);
        let network = bundle
            .artefact(number)
            .unwrap()
            .network(&Device::Cpu)
            .unwrap();
        let (alone, _) = network
            .forward(&images, &Views::dense(), Mode::Eval)
            .unwrap();
        let together = ready.forward(&images).unwrap();
        let off = (&alone - &together)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-6, "{off}");
        all.push(alone.to_vec2::<f32>().unwrap());
    }
    assert_ne!(all[1], all[2]);
    // The whole network's own statistics are others: those of no images.
    let whole = bundle.whole().network(&Device::Cpu).unwrap();
    let (logits, _) = whole
        .forward(&images(16), &Views::dense(), Mode::Eval)
        .unwrap();
    assert_ne!(logits.to_vec2::<f32>().unwrap(), all[2]);

    let mut changed = [false; 4];
    let taken = allocation_counter::measure(|| {
        changed = [100, 300, 250, 99].map(|macs| ready.switch(macs));
    });
    assert_eq!(taken.count_total, 0);
    // It does count: what computes takes memory.
    let taken = allocation_counter::measure(|| drop(ready.forward(&images(16))));
    assert!(taken.count_total > 0);
    // What is too little changes nothing.
    assert_eq!((changed, ready.active()), ([true, true, true, false], 1));
    assert!(bundle.within(99).unwrap_err().contains("at least the 100"));
}

#[test]
fn a_slice_without_its_statistics_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("bundle");
    bundle().save(&path).unwrap();
    let file = path.join(STATISTICS);
    let sound = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "1/features.1.conv.0.1.running_var";
    let refused = |change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let mut tensors = sound.clone();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &file).unwrap();
        Bundle::load(&path).unwrap_err().to_string()
    };
    let missing = refused(&|tensors| drop(tensors.remove(name)));
    assert!(
        missing
            .contains("statistics.safetensors: slice 1: features.1.conv.0.1.running_var: missing"),
        "{missing}"
    );
    let negative = refused(&|tensors| {
        let worse = tensors[name].affine(-1.0, 0.0).unwrap();
        tensors.insert(name.to_owned(), worse);
    });
    assert!(
        negative.contains("expected variances of at least 0"),
        "{negative}"
    );
    let unknown = refused(&|tensors| {
        let copy = tensors[name].clone();
        tensors.insert("7/features.1.conv.0.1.running_var".to_owned(), copy);
    });
    assert!(unknown.contains("no such slice"), "{unknown}");
}
