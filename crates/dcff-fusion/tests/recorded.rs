//! The numbers of the authors' program, where `DCFF_FIXTURES_DIR` points to a folder with `dcff/index.json` and
//! `dcff/accounting.json`; without it these tests say so and pass.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use dcff_fusion::recorded::{Recording, compare};
use dcff_fusion::{CompressionRate, PUBLISHED, Rates};
use serde_json::Value;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DCFF_FIXTURES_DIR").map(|root| PathBuf::from(root).join("dcff"));
    if folder.is_none() {
        println!("skipped: DCFF_FIXTURES_DIR is not set");
    }
    folder
}

fn json(folder: &Path, file: &str) -> Value {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn criterion_vectors() {
    let Some(folder) = folder() else { return };
    let recordings: Vec<Recording> =
        serde_json::from_value(json(&folder, "index.json")["criterion"].take()).unwrap();
    assert!(!recordings.is_empty());
    let mut outside = Vec::new();
    for recording in &recordings {
        for deviation in compare(&folder, recording).unwrap() {
            println!("{}: {deviation:?}", recording.name);
            if !deviation.within() {
                outside.push(format!("{}: {deviation:?}", recording.name));
            }
        }
    }
    assert!(outside.is_empty(), "{outside:#?}");
}

#[test]
fn published_rates_and_kept_widths() {
    let Some(folder) = folder() else { return };
    let accounting = json(&folder, "accounting.json");
    let models = accounting["models"].as_array().unwrap();
    assert_eq!(models.len(), PUBLISHED.len());
    for model in models {
        let text = model["cprate_expr"].as_str().unwrap();
        let expected: Vec<f64> = serde_json::from_value(model["cprate"].clone()).unwrap();
        let Rates::List(rates) = text.parse().unwrap() else {
            panic!("{text} is a list")
        };
        let rates: Vec<f64> = rates.into_iter().map(CompressionRate::get).collect();
        assert_eq!(rates, expected, "{text}");

        let setting = PUBLISHED.iter().find(|setting| setting.rates == text);
        let setting = setting.unwrap_or_else(|| panic!("no setting has the rates {text}"));
        assert_eq!(setting.arch, model["arch"].as_str().unwrap());
        let published = |key: &str| {
            let text = model["published"][key].as_str().unwrap();
            let scale = match text.chars().last() {
                Some('M') => 1e6,
                Some('B') => 1e9,
                _ => 1.0,
            };
            text.trim_end_matches(['M', 'B', '%'])
                .parse::<f64>()
                .unwrap()
                * scale
        };
        for (ours, key) in [
            (setting.ops, "flops"),
            (setting.params, "params"),
            (setting.ops_reduction, "flops_pr"),
            (setting.params_reduction, "params_pr"),
        ] {
            assert!(
                (ours / published(key) - 1.0).abs() < 1e-12,
                "{}: {key}",
                setting.name
            );
        }
        for layer in model["fused_layers"].as_array().unwrap() {
            let rate = CompressionRate::new(layer["rate"].as_f64().unwrap()).unwrap();
            let kept = rate.kept(layer["cout"].as_u64().unwrap() as usize);
            assert_eq!(kept as u64, layer["kept"].as_u64().unwrap(), "{layer}");
        }
    }
}

#[test]
fn truncation_table() {
    let Some(folder) = folder() else { return };
    let table: Vec<(usize, f64, usize, usize)> =
        serde_json::from_value(json(&folder, "accounting.json")["truncation_table"].take())
            .unwrap();
    assert!(!table.is_empty());
    for (filters, rate, truncated, exact) in table {
        assert_eq!(
            CompressionRate::new(rate).unwrap().kept(filters),
            truncated,
            "{filters} at {rate}"
        );
        assert_ne!(truncated, exact, "the table lists the surprises only");
    }
}

/// Two filters of one weight at distance ln 3, epoch 0 at temperature 1: everything by hand.
fn by_hand() -> HashMap<String, Tensor> {
    let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    let distance = 3.0_f32.ln();
    let score = 0.25 * 3.0_f32.ln();
    HashMap::from([
        (
            "weight".to_owned(),
            tensor(&[0.0, distance]).reshape((2, 1, 1, 1)).unwrap(),
        ),
        ("dist".to_owned(), tensor(&[0.0, distance, distance, 0.0])),
        ("E2.e0.P_slice".to_owned(), tensor(&[0.75, 0.25])),
        ("E2.e0.score_eff".to_owned(), tensor(&[score, score])),
        (
            "E2.e0.ids_unsorted".to_owned(),
            Tensor::new(&[1_u32, 0], &Device::Cpu).unwrap(),
        ),
        (
            "E2.e0.fused".to_owned(),
            tensor(&[0.75 * distance, 0.25 * distance]),
        ),
    ])
}

/// The quantities outside their tolerance, or the error.
fn outside(tensors: &HashMap<String, Tensor>, name: &str) -> Result<Vec<&'static str>, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = format!("recorded_{name}.safetensors");
    candle_core::safetensors::save(tensors, folder.join(&file)).unwrap();
    let recording: Recording = serde_json::from_value(serde_json::json!({
        "name": name, "file": file, "m": 2,
        "records": [{"E": 2, "e": 0, "T": 1.0, "score_raw_finite": true, "rank_reliable": true}],
    }))
    .unwrap();
    let deviations = compare(folder, &recording).map_err(|error| error.to_string())?;
    Ok(deviations
        .iter()
        .filter(|deviation| !deviation.within())
        .map(|deviation| deviation.what)
        .collect())
}

#[test]
fn agrees_with_a_recording_by_hand_and_finds_every_change() {
    assert_eq!(outside(&by_hand(), "by_hand").unwrap(), [""; 0]);
    for (name, what) in [
        ("dist", "distance (relative)"),
        ("E2.e0.P_slice", "proxy"),
        ("E2.e0.score_eff", "score"),
        ("E2.e0.fused", "fused filters (of the largest weight)"),
    ] {
        for by in [1e-5, f64::NAN] {
            let mut tensors = by_hand();
            tensors.insert(name.to_owned(), (&tensors[name] + by).unwrap());
            assert_eq!(
                outside(&tensors, "changed").unwrap(),
                [what],
                "{name} changed by {by}"
            );
        }
    }
}

#[test]
fn a_recording_that_lacks_a_tensor_is_refused_by_file_and_name() {
    let mut tensors = by_hand();
    tensors.remove("E2.e0.score_eff");
    let error = outside(&tensors, "lacking").unwrap_err();
    assert!(
        error.ends_with("recorded_lacking.safetensors: expected a tensor 'E2.e0.score_eff'"),
        "{error}"
    );
}
