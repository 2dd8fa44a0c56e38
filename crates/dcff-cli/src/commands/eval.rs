//! `dcff eval`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use dcff_data::{Augmentation, Loader, LoaderOptions, Normalisation, Wanted};
use dcff_models::{InferenceNetwork, Views};
use serde_json::json;

use crate::args::EvalArgs;
use crate::ended::Ended;
use crate::{artefact, data};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Ended> {
    ensure!(
        args.batch_size > 0,
        "--batch-size: expected at least 1, got 0"
    );
    let path = artefact::folder(&args.artefact)?;
    let (mut artefact, slice) = artefact::load(&path, args.budget.as_deref())?;
    if let Some(input) = args.input_size {
        artefact = artefact.with_input(input).context("--input-size")?;
    }
    let cfg = &artefact.config.pretrained_cfg;
    let wanted = Wanted {
        input: Some(cfg.input_size),
        crop_pct: Some(cfg.crop_pct),
        interpolation: Some(cfg.interpolation.clone()),
        skip_bad: args.skip_bad,
        ..Wanted::default()
    };
    let test = data::load_test(&args.data, &args.data_dir, &cfg.label_names, &wanted)?;
    let config = path.join(dcff_compact::CONFIG);
    ensure!(
        test.classes() == cfg.label_names,
        "{}: label_names: the network knows the classes {}, {} has {}",
        config.display(),
        cfg.label_names.join(", "),
        args.data,
        test.classes().join(", ")
    );
    let options = LoaderOptions {
        batch_size: args.batch_size,
        augmentation: Augmentation::NONE,
        normalisation: Normalisation {
            mean: cfg.mean.clone(),
            std: cfg.std.clone(),
        },
        drop_last: false,
    };
    let images = test.len();
    let device = args.device.open()?;
    let network = artefact.network(&device)?;
    let loader = Loader::new(Arc::new(test), options)?;
    // The prepared network's kernels are the processor's.
    let score = if device.is_cpu() {
        let prepared = InferenceNetwork::new(&network, &Views::dense())?;
        dcff_train::evaluate_finished(&prepared, &device, &loader)?
    } else {
        dcff_train::evaluate(&network, &Views::dense(), &loader)?
    };
    // Weights that are finite may still be absurd.
    ensure!(
        score.loss.is_finite(),
        "{}: expected a finite loss, got {}",
        path.display(),
        score.loss
    );
    artefact::tell(&path, slice.as_ref());
    if args.json {
        let accuracy = score.accuracy;
        let mut row = json!({ "artefact": path, "data": args.data, "images": images, "loss": score.loss, "accuracy": accuracy });
        if let Some(slice) = &slice {
            row["slice"] = json!({ "config": slice.config, "macs": slice.macs });
        }
        println!("{row}");
    } else {
        println!(
            "{}: accuracy {:.2} %, loss {:.4} over {images} test images",
            path.display(),
            100.0 * score.accuracy,
            score.loss
        );
    }
    Ok(Ended::Done)
}
