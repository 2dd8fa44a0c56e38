//! `dcff data`.

use dcff_data::{DatasetInfo, Splits, Wanted};
use dcff_report::table::{Align, Table};
use serde_json::json;

use crate::args::DataArgs;
use crate::data;
use crate::ended::Ended;

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<Ended> {
    let Some(name) = &args.name else {
        if args.json {
            println!("{}", json!({ "data": dcff_data::known() }));
        } else {
            let mut table = Table::new([("data set", Align::Left), ("", Align::Left)]);
            dcff_data::known()
                .iter()
                .for_each(|info| table.row([info.name.clone(), info.about.clone()]));
            table.row([
                "folder:PATH".into(),
                "your own images: PATH/train/CLASS and PATH/test/CLASS (or val, valid, validation), or PATH/CLASS".into(),
            ]);
            print!("{}", table.text());
        }
        return Ok(Ended::Done);
    };
    let located = data::locate(name, &args.data_dir, !args.locate)?;
    if args.locate {
        println!("{}", located.source);
        return Ok(Ended::Done);
    }
    let wanted = Wanted {
        input: args.input_size,
        skip_bad: args.skip_bad,
        ..Wanted::default()
    };
    let loaded = located.load_as(&wanted)?;
    data::tell(&loaded.notes);
    let (info, splits) = (&loaded.info, &loaded.splits);
    anyhow::ensure!(
        !args.linear || !splits.train.pixels().is_empty(),
        "--linear: expected images that fit into memory; a smaller --input-size may do"
    );
    let linear = args.linear.then(|| dcff_data::linear_baseline(splits));
    if args.json {
        let object = json!({
            "name": info.name, "found": located.source.to_string(), "shape": info.shape, "classes": info.classes,
            "train": { "images": splits.train.len(), "sha256": splits.train.fingerprint() },
            "test": { "images": splits.test.len(), "sha256": splits.test.fingerprint() },
            "linear_accuracy": linear,
        });
        println!("{object}");
        return Ok(Ended::Done);
    }
    let [channels, height, width] = info.shape;
    println!("{}: {}", info.name, info.about);
    println!("found:      {}", located.source);
    println!(
        "images:     {} to train on, {} to test on, {channels} x {height} x {width}",
        splits.train.len(),
        splits.test.len()
    );
    println!("classes:    {}", info.classes.join(", "));
    println!("licence:    {}", info.licence);
    println!("comparable: {}", info.comparable);
    println!("checked:    {}", checked(info, splits));
    println!("sha256:     {} (train)", splits.train.fingerprint());
    println!("            {} (test)", splits.test.fingerprint());
    if let Some(accuracy) = linear {
        println!(
            "a linear model on the pixels reaches {:.1} %",
            100.0 * accuracy
        );
    }
    Ok(Ended::Done)
}

/// What the hashes below prove.
fn checked(info: &DatasetInfo, splits: &Splits) -> &'static str {
    match &info.fingerprints {
        Some(known)
            if known.train == splits.train.fingerprint()
                && known.test == splits.test.fingerprint() =>
        {
            "these are the images of the manifest, by their hashes"
        }
        Some(_) => "these are not the images of the manifest: other hashes",
        None if splits.train.pixels().is_empty() => {
            "nothing but that every file can be opened; the hashes are of paths, sizes and labels"
        }
        None => {
            "number, size and labels of the images; the hashes are of these pixels, no hash of the published ones is known here"
        }
    }
}
