//! `dcff predict`.

use anyhow::{bail, ensure};
use candle_core::{Device, Tensor};
use dcff_data::{Fit, Normalisation, Preprocess};
use dcff_models::{InferenceNetwork, Views};
use dcff_report::table::{Align, Table};
use serde_json::{Value, json};

use crate::args::PredictArgs;
use crate::ended::Ended;
use crate::{artefact, text};

/// The most images computed at once.
const BATCH: usize = 16;
/// The most elements of maps that are worth computing at once: half a GiB.
const MAPS: usize = 1 << 27;

pub(crate) fn run(args: &PredictArgs) -> anyhow::Result<Ended> {
    ensure!(args.top > 0, "--top: expected at least 1, got 0");
    let folder = artefact::folder(&args.artefact)?;
    let (artefact, slice) = artefact::load(&folder, args.budget.as_deref())?;
    let cfg = &artefact.config.pretrained_cfg;
    let preprocess = Preprocess {
        fit: Fit {
            input_size: cfg.input_size,
            crop_pct: cfg.crop_pct,
            interpolation: cfg.interpolation.clone(),
        },
        normalisation: Normalisation {
            mean: cfg.mean.clone(),
            std: cfg.std.clone(),
        },
    };
    let network = artefact.network(&Device::Cpu)?;
    let network = InferenceNetwork::new(&network, &Views::dense())?;
    let [c, h, w] = cfg.input_size;
    preprocess.fit.check()?;
    let mut found = Vec::with_capacity(args.images.len());
    let mut bad = Vec::new();
    let numel = artefact.config.architecture.shapes()?.total();
    for paths in args.images.chunks((MAPS / numel).clamp(1, BATCH)) {
        let mut pixels = Vec::with_capacity(paths.len() * c * h * w);
        let mut read = Vec::with_capacity(paths.len());
        for path in paths {
            match preprocess.read(path) {
                Ok(values) => {
                    pixels.extend(values);
                    read.push(path);
                }
                Err(error) => bad.push(error),
            }
        }
        if read.is_empty() {
            continue;
        }
        let images = Tensor::from_vec(pixels, (read.len(), c, h, w), &Device::Cpu)?;
        for (logits, path) in network
            .forward(&images)?
            .to_vec2::<f32>()?
            .into_iter()
            .zip(read)
        {
            // Weights that are finite may still be absurd.
            if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
                bail!(
                    "{}: {}: expected finite logits, got {logit}",
                    args.artefact.display(),
                    path.display()
                );
            }
            found.push((path, top(&logits, args.top)));
        }
    }
    // Nothing is left to answer for: bad input like any other.
    if found.is_empty() {
        bail!(
            bad.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        );
    }
    for error in &bad {
        eprintln!("error: {}", text::one_line(&error.to_string()));
    }
    artefact::tell(&folder, slice.as_ref());
    let ended = match bad.is_empty() {
        true => Ended::Done,
        false => Ended::Partly,
    };
    if args.json {
        let images: Vec<Value> = found
            .iter()
            .map(|(image, classes)| {
                let classes: Vec<Value> = classes
                    .iter()
                    .map(|&(index, probability)| {
                        json!({ "label": cfg.label_names[index], "index": index, "probability": probability })
                    })
                    .collect();
                json!({ "image": image, "classes": classes })
            })
            .collect();
        let mut all = json!({ "artefact": args.artefact, "images": images });
        if let Some(slice) = &slice {
            all["slice"] = json!({ "config": slice.config, "macs": slice.macs });
        }
        println!("{all}");
        return Ok(ended);
    }
    for (image, classes) in &found {
        println!("{}", image.display());
        let mut table = Table::new([("", Align::Right), ("", Align::Left)]);
        for &(index, probability) in classes {
            table.row([
                format!("{:.2} %", 100.0 * probability),
                text::printable(&cfg.label_names[index]),
            ]);
        }
        // The headings are blank.
        for line in table.text().lines().skip(1) {
            println!("  {line}");
        }
    }
    Ok(ended)
}

/// The `k` most probable classes: index and probability, softmax of the logits. Of equal ones the first comes first.
fn top(logits: &[f32], k: usize) -> Vec<(usize, f64)> {
    let highest = logits.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let powers: Vec<f64> = logits
        .iter()
        .map(|&v| f64::from(v - highest).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    let mut classes: Vec<(usize, f64)> = powers.iter().map(|p| p / sum).enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(k);
    classes
}

#[cfg(test)]
mod tests {
    use super::top;

    #[test]
    fn the_most_probable_come_first() {
        // exp(ln 3) : exp(0) : exp(0) = 3 : 1 : 1.
        let found = top(&[0.0, 3f32.ln(), 0.0], 2);
        assert_eq!([found[0].0, found[1].0], [1, 0]);
        assert!((found[0].1 - 0.6).abs() < 1e-6 && (found[1].1 - 0.2).abs() < 1e-6);
        // Logits whose exponential is no finite number.
        let found = top(&[1000.0, -1000.0], 5);
        assert_eq!(found, [(0, 1.0), (1, 0.0)]);
    }
}
