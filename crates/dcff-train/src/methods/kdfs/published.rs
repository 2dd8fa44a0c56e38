//! The figures in print: the table of the authors' repository, <https://github.com/Osilly/KDFS>, of runs with `cost = "public"`.

use dcff_flops::{Counting, Target};
use dcff_run::{Counted, Published, Summary};

use super::settings::KdfsConfig;

/// A row: network, data set, target, and of the network that came out multiply-accumulates in millions, how much was saved in
/// percent, and top-1 accuracy.
type Row = (&'static str, &'static str, f64, [f64; 3]);

const ROWS: [Row; 8] = [
    ("resnet56", "cifar10", 0.57, [74.22, 40.85, 93.78]),
    ("resnet56", "cifar10", 0.48, [61.25, 51.19, 93.58]),
    ("resnet56", "cifar10", 0.41, [51.24, 59.17, 93.19]),
    ("resnet110", "cifar10", 0.48, [122.61, 51.52, 94.23]),
    ("resnet110", "cifar10", 0.40, [98.80, 60.93, 93.65]),
    ("resnet56", "cifar100", 0.48, [60.26, 51.98, 71.65]),
    ("resnet50", "imagenet", 0.68, [2384.0, 42.32, 76.26]),
    ("resnet50", "imagenet", 0.56, [1845.0, 55.36, 75.80]),
];

/// The row of the setting of `summary`; a run on a part of a data set has none.
pub(super) fn published(summary: &Summary, config: &KdfsConfig) -> Option<Published> {
    let Target::Share(share) = config.target_macs else {
        return None;
    };
    let run = &summary.config;
    let (arch, data, target, [macs, saved, top1]) =
        ROWS.iter().find(|(arch, data, target, _)| {
            (*arch, *data) == (run.arch.as_str(), run.data.name.as_str())
                && (share - target).abs() < 1e-9
        })?;
    (config.cost == Counting::Public).then(|| Published {
        name: format!("{arch}, {data}, target {target}"),
        ops: macs * 1e6,
        ops_reduction: *saved,
        counted: Counted::Macs,
        params: None,
        top1: *top1,
        note: "The published top-1 of KDFS is the best epoch of fine-tuning on the test set; its teachers have 93.26 % (ResNet-56) and 93.50 % (ResNet-110) on CIFAR-10, 71.33 % on CIFAR-100, 76.15 % on ImageNet.",
    })
}

#[cfg(test)]
mod tests {
    use dcff_flops::MaskedCost;

    use super::*;

    /// What is in print as saved is what is left of the network that is counted here.
    #[test]
    fn costs_in_print_are_shares_of_the_networks() {
        for (arch, data, target, [macs, saved, _]) in ROWS {
            let full = dcff_models::by_name(arch).unwrap();
            let whole = MaskedCost::new(&full, Counting::Public).unwrap().base() / 1e6;
            let left = 100.0 * (1.0 - macs / whole);
            assert!(
                (left - saved).abs() < 0.02,
                "{arch}, {data}, {target}: {left} for {saved}"
            );
        }
    }
}
