//! `dcff data`.

use serde_json::json;

use crate::args::DataArgs;
use crate::table::{Align, Table};
use crate::{Ended, data};

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
                "your own images: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png".into(),
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
    let loaded = located.load()?;
    let (info, splits) = (&loaded.info, &loaded.splits);
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
