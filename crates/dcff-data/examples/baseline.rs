//! Prints what a linear model reaches on a dataset: `cargo run --release -p dcff-data --example baseline -- synthetic [FOLDER...]`.

use std::path::PathBuf;
use std::time::Instant;

use dcff_data::{Result, linear_baseline, locate};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "synthetic".to_owned());
    let folders: Vec<PathBuf> = arguments.map(PathBuf::from).collect();

    let start = Instant::now();
    let loaded = locate(&name, &folders)?.load()?;
    let (train, test) = (&loaded.splits.train, &loaded.splits.test);
    println!(
        "{name}: {} + {} images in {:.2} s",
        train.len(),
        test.len(),
        start.elapsed().as_secs_f64()
    );
    println!(
        "train {}\ntest  {}",
        train.fingerprint(),
        test.fingerprint()
    );

    let start = Instant::now();
    let accuracy = linear_baseline(&loaded.splits);
    println!(
        "linear model: {:.1} % in {:.2} s",
        100.0 * accuracy,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
