//! A run from images to an ONNX file: a ResNet-20 is trained with a quarter of its filters, fused of all of them.
//!
//! ```sh
//! cargo run --release -p dcff --example train_score_fuse_export
//! ```

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use dcff::compact::{Artefact, export};
use dcff::data::{SyntheticConfig, find, synthetic};
use dcff::train::methods::FilterFusionConfig;
use dcff::train::{
    COMPACT, Data, Ending, Event, MethodConfig, Recipe, RunConfig, RunFolder, Trainer,
};

#[allow(unreachable_pub, missing_docs, reason = "the tests run it, too")]
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let info = find("synthetic")?;
    let splits = synthetic(&SyntheticConfig {
        train: 100,
        test: 20,
        seed: 1,
    })?;
    let data = Data::new(splits, info.normalisation.clone(), info.augmentation);
    let source = data.config("synthetic", 0.0);
    let method = MethodConfig::new("dcff", FilterFusionConfig::new("0.75".parse()?))?;
    let recipe = Recipe {
        batch_size: 20,
        ..Recipe::quick(2)
    };
    let config = RunConfig::new("resnet20", 1, source, method, recipe);

    let full = dcff::models::by_name("resnet20")?.with_classes(data.train.classes().len());
    let scratch = tempfile::tempdir()?;
    let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
    let mut trainer =
        Trainer::builder(folder.clone(), config, &full, &data, &Device::Cpu).build()?;
    let mut watch = |event: &Event<'_>| {
        if let Event::Epoch { metrics, .. } = event {
            println!(
                "epoch {}: training loss {:.3}",
                metrics.epoch, metrics.train.loss
            );
        }
    };
    let Ending::Finished(summary) = trainer.run(&mut watch, &AtomicBool::new(false))? else {
        return Err("nobody asked it to stop".into());
    };
    println!(
        "{} of {} multiply-accumulates",
        summary.macs.compact, summary.macs.full
    );

    let artefact = Artefact::load(&folder.join(COMPACT))?;
    let onnx = export::onnx(&artefact)?;
    println!("{} bytes of ONNX", onnx.len());
    Ok(())
}
