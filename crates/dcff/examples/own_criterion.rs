//! A criterion of one's own, trained with: the filters whose largest weight is smallest go.
//!
//! ```sh
//! cargo run --release -p dcff --example own_criterion
//! ```

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use dcff::criteria::{Criterion, Evidence, LayerEvidence};
use dcff::data::{SyntheticConfig, find, synthetic};
use dcff::train::methods::{PruneConfig, describe};
use dcff::train::{Data, Ending, Event, MethodConfig, Recipe, RunConfig, RunFolder, Trainer};

/// The largest absolute weight of a filter.
struct LInfinityNorm;

impl Criterion for LInfinityNorm {
    fn name(&self) -> &'static str {
        "l-infinity-norm"
    }

    fn about(&self) -> &'static str {
        "largest absolute weight of a filter"
    }

    fn source(&self) -> &'static str {
        "the maximum norm, as an example"
    }

    fn evidence(&self) -> Evidence {
        Evidence::Weights
    }

    fn score(&self, layer: &LayerEvidence<'_>) -> dcff::criteria::Result<Vec<f64>> {
        let rows = layer.rows()?;
        let length = rows.len() / layer.filter_count();
        let largest = |row: &[f32]| {
            row.iter()
                .fold(0.0, |most: f64, &w| most.max(f64::from(w).abs()))
        };
        Ok(rows.chunks_exact(length).map(largest).collect())
    }
}

#[allow(unreachable_pub, missing_docs, reason = "the tests run it, too")]
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    dcff::criteria::testing::conformance(&LInfinityNorm);

    let info = find("synthetic")?;
    let splits = synthetic(&SyntheticConfig {
        train: 60,
        test: 20,
        seed: 1,
    })?;
    let data = Data::new(splits, info.normalisation.clone(), info.augmentation);
    let source = data.config("synthetic", 0.0);
    let recipe = Recipe {
        batch_size: 20,
        ..Recipe::quick(2)
    };
    // Settings as for any criterion, under the name of this one.
    let mut prune = PruneConfig::new("l1-norm", "0.5".parse()?, &recipe)?;
    prune.criterion = LInfinityNorm.name().to_owned();
    let config = RunConfig::new(
        "resnet20",
        1,
        source,
        MethodConfig::new("prune", prune)?,
        recipe,
    );

    let full = dcff::models::by_name("resnet20")?.with_classes(data.train.classes().len());
    let scratch = tempfile::tempdir()?;
    let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
    let builder = Trainer::builder(folder, config.clone(), &full, &data, &Device::Cpu);
    let mut trainer = builder.criterion(&LInfinityNorm).build()?;
    let ending = trainer.run(&mut |_: &Event<'_>| {}, &AtomicBool::new(false))?;
    let Ending::Finished(summary) = ending else {
        return Err("nobody asked it to stop".into());
    };
    println!(
        "{}: {} MACs left",
        describe(&config.method).label,
        summary.macs.compact
    );
    Ok(())
}
