//! Widths and costs of a run's networks, and a summary's against them.

use dcff_flops::{Convention, Form, cost};
use dcff_models::Architecture;
use dcff_run::{Cost, Summary, Width};

use crate::error::{Error, Result};

/// The full network of the run of `summary`, for the classes and the images of its compact form `artefact`.
///
/// # Errors
/// When this version does not know the network.
pub fn full_of(summary: &Summary, artefact: &dcff_compact::Config) -> Result<Architecture> {
    Ok(dcff_models::by_name(&summary.config.arch)?
        .with_classes(artefact.pretrained_cfg.num_classes)
        .with_input(artefact.architecture.input))
}

/// Checks that the widths and costs of `summary` are those of the network `full` and its form `compact`.
///
/// # Errors
/// The first that is not, with what was expected and what came.
pub fn check_costs(summary: &Summary, full: &Architecture, compact: &Architecture) -> Result<()> {
    let Costs {
        widths,
        macs,
        published_ops: mut ops,
        params,
        constants,
    } = costs(full, compact)?;
    let differs = |field: &str, expected: String, got: String| {
        let message = format!("expected {expected}, got {got}");
        Err(Error::setting(field, message))
    };
    if summary.widths.len() != widths.len() {
        let counts = [&widths, &summary.widths].map(|w| format!("{} spaces", w.len()));
        let [expected, got] = counts;
        return differs("widths", expected, got);
    }
    if let Some((a, b)) = widths.iter().zip(&summary.widths).find(|(a, b)| a != b) {
        let [expected, got] = [a, b].map(|w| format!("{} of {} in {}", w.kept, w.of, w.space));
        return differs("widths", expected, got);
    }
    if full.widths() == compact.widths() && summary.published_ops.compact != ops.compact {
        // Earlier versions counted the pooling in here that the counter sees in compact networks only.
        ops.compact = cost(compact, Convention::Published, Form::Compact)?.ops();
    }
    for (name, expected, got) in [
        ("macs", macs, summary.macs),
        ("published_ops", ops, summary.published_ops),
        ("params", params, summary.params),
    ] {
        for (form, expected, got) in [
            ("full", expected.full, got.full),
            ("compact", expected.compact, got.compact),
        ] {
            if expected != got {
                let field = format!("{name}.{form}");
                return differs(&field, expected.to_string(), got.to_string());
            }
        }
    }
    // Earlier versions did not count them.
    if ![0, constants].contains(&summary.constants) {
        let [expected, got] = [constants, summary.constants].map(|count| count.to_string());
        return differs("constants", expected, got);
    }
    Ok(())
}

/// Multiply-accumulates of `architecture` for one image.
pub(crate) fn macs(architecture: &Architecture) -> Result<u64> {
    Ok(cost(architecture, Convention::Macs, Form::Compact)?.ops())
}

/// The widths and costs of a network, full and compact.
pub(crate) struct Costs {
    pub(crate) widths: Vec<Width>,
    pub(crate) macs: Cost,
    pub(crate) published_ops: Cost,
    pub(crate) params: Cost,
    /// Of those of the compact network, what stands for removed filters.
    pub(crate) constants: u64,
}

/// The widths and costs of a pair of architectures.
pub(crate) fn costs(full: &Architecture, compact: &Architecture) -> Result<Costs> {
    // A compact network may have spaces more, of which a stream is put together, or fewer.
    let spaces = full.spaces.iter();
    let widths = spaces
        .map(|space| Width {
            space: space.name.clone(),
            kept: compact.width(&space.name),
            of: space.width,
        })
        .collect();
    let pair = |[full, compact]: [u64; 2]| Cost { full, compact };
    let macs = dcff_flops::costs(full, compact, Convention::Macs)?;
    let published = dcff_flops::costs(full, compact, Convention::Published)?;
    let constants = macs[1].layers.iter().filter(|layer| layer.kind == "offset");
    Ok(Costs {
        widths,
        constants: constants.map(|layer| layer.params).sum(),
        params: pair(macs.each_ref().map(|table| table.params())),
        macs: pair(macs.map(|table| table.ops())),
        published_ops: pair(published.map(|table| table.ops())),
    })
}

#[cfg(test)]
mod tests {
    use dcff_run::{DataConfig, MethodConfig, Outcome, Recipe, RunConfig, Score};

    use super::*;

    fn summary(full: &Architecture, compact: &Architecture) -> Summary {
        let data = DataConfig {
            train_fingerprint: "a".into(),
            test_fingerprint: "b".into(),
            ..DataConfig::named("synthetic", 0.0)
        };
        let recipe = Recipe::quick(2);
        let outcome = Outcome {
            epoch: 2,
            test: Score::default(),
            validation: None,
        };
        let Costs {
            widths,
            macs,
            published_ops,
            params,
            constants,
        } = costs(full, compact).unwrap();
        Summary {
            config: RunConfig::new("resnet20", 1, data, MethodConfig::named("dense"), recipe),
            method: None,
            last: outcome,
            chosen: outcome,
            chosen_by: "last".into(),
            widths,
            macs,
            published_ops,
            params,
            constants,
            training_macs: 0,
            stages: Vec::new(),
            train_images: 10,
            seconds: 1.0,
            images_per_second: 1.0,
            device: "cpu".into(),
            threads: 1,
            dcff_version: "0.1.0".into(),
            products: Vec::new(),
        }
    }

    #[test]
    fn widths_and_costs_must_be_those_of_the_network() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let mut widths = full.widths();
        widths[1] /= 2;
        let compact = full.narrowed(&widths).unwrap();
        let sound = summary(&full, &compact);
        check_costs(&sound, &full, &compact).unwrap();
        let message = |altered: Summary| {
            let error = check_costs(&altered, &full, &compact).unwrap_err();
            error.to_string()
        };
        let mut altered = sound.clone();
        altered.macs.compact = 7;
        let expected = sound.macs.compact;
        assert_eq!(
            message(altered),
            format!("macs.compact: expected {expected}, got 7")
        );
        let mut altered = sound.clone();
        altered.widths[1].kept = 1;
        let (space, of) = (&sound.widths[1].space, sound.widths[1].of);
        assert_eq!(
            message(altered),
            format!(
                "widths: expected {} of {of} in {space}, got 1 of {of} in {space}",
                widths[1]
            )
        );
    }

    #[test]
    fn a_dense_network_saves_nothing_and_earlier_counts_of_it_are_accepted() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let mut dense = summary(&full, &full);
        assert_eq!(dense.published_ops.full, dense.published_ops.compact);
        check_costs(&dense, &full, &full).unwrap();
        // With global pooling: 64 channels of 8x8 pixels.
        dense.published_ops.compact += 64 * (64 + 1);
        check_costs(&dense, &full, &full).unwrap();
        dense.published_ops.compact += 1;
        assert!(check_costs(&dense, &full, &full).is_err());
    }
}
