//! `dcff train`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use dcff_data::Loaded;
use dcff_models::Architecture;
use dcff_train::{
    Augment, Data, DataConfig, Ending, MethodConfig, Precision, Recipe, RunConfig, RunFolder,
    Schedule, Summary, Trainer,
};

use super::method;
use crate::args::TrainArgs;
use crate::progress::Progress;
use crate::table::{change, count, duration};
use crate::{Ended, data};

/// The share held out when neither flag nor recipe says otherwise.
const HOLD_OUT: f64 = 0.05;
/// Epochs of the quick recipe.
const QUICK_EPOCHS: usize = 15;
/// Steps measured by `--estimate`.
const ESTIMATE_STEPS: usize = 8;

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Ended> {
    let saved = match (&args.resume, &args.config) {
        (Some(folder), _) => Some(RunFolder::open(folder)?.1),
        (None, Some(file)) => Some(read_config(file)?),
        (None, None) => None,
    };
    // Everything that needs no images is checked before they are read.
    let draft = configure(args, saved.as_ref(), None)?;
    draft.validate()?;
    if let (true, Some(out)) = (args.check, &args.out) {
        draft.method.compact(&dcff_models::by_name(&draft.arch)?)?;
        check_folder(out, &draft)?;
        return Ok(Ended::Done);
    }
    let device = args.device.open()?;
    draft.recipe.configure(&device)?;
    if let (Some(folder), Some(saved)) = (&args.resume, &saved)
        && let Some(difference) = saved.difference(&draft)
    {
        bail!(
            "{}: a resumed run keeps its configuration: {difference}",
            folder.join(dcff_train::CONFIG).display()
        );
    }
    let full = dcff_models::by_name(&draft.arch)?;
    draft.method.compact(&full)?;
    let loaded = data::load(&draft.data.name, &args.data_dir)?;
    let full = full.with_classes(loaded.info.classes.len());
    let config = match saved {
        Some(_) if args.resume.is_some() => draft,
        // Once more, as a budget depends on the number of classes.
        saved => with_fingerprints(configure(args, saved.as_ref(), Some(&full))?, &loaded),
    };
    config.validate()?;
    let data = Data {
        splits: loaded.splits,
        normalisation: loaded.info.normalisation,
        augmentation: loaded.info.augmentation,
    };
    data.check(&config, &full)?;
    if let (Some(from), None) = (config.method.dense_from(), &args.resume) {
        from.check(&config)?;
    }
    if args.estimate {
        let scratch = tempfile::tempdir()?;
        let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
        let seconds =
            Trainer::new(folder, config, &full, &data, &device)?.estimate(ESTIMATE_STEPS)?;
        println!("{seconds:.1}");
        return Ok(Ended::Done);
    }
    let folder = match (&args.resume, &args.out) {
        (Some(folder), _) => RunFolder::open(folder)?.0,
        (None, Some(out)) => RunFolder::create(out, &config)?,
        (None, None) => bail!("expected --out or --resume"),
    };
    if let Some(summary) = folder.summary()? {
        eprintln!(
            "{}: all {} epochs are done",
            folder.path().display(),
            config.recipe.epochs
        );
        print_summary(&summary, folder.path());
        return Ok(Ended::Done);
    }
    let mut trainer = Trainer::new(folder.clone(), config, &full, &data, &device)?;
    let stop = stop_on_signal()?;
    let mut progress = Progress::new();
    let ending = trainer.run(&mut progress, &stop)?;
    drop(progress);
    match ending {
        Ending::Finished(summary) => {
            print_summary(&summary, folder.path());
            Ok(Ended::Done)
        }
        Ending::Interrupted(position) => {
            let (epoch, step, path) = (position.epoch + 1, position.step, folder.path().display());
            eprintln!(
                "interrupted in epoch {epoch} after step {step}; continue with: dcff train --resume {path}"
            );
            Ok(Ended::Interrupted)
        }
    }
}

/// What the flags of a new run ask for, checked as far as that goes without images.
pub(crate) fn plan(args: &TrainArgs) -> anyhow::Result<RunConfig> {
    let config = configure(args, None, None)?;
    config.validate()?;
    config
        .method
        .compact(&dcff_models::by_name(&config.arch)?)?;
    Ok(config)
}

/// Refuses a folder that holds a run of other settings than those of `config`, whose fingerprints are not known yet.
pub(crate) fn check_folder(folder: &Path, config: &RunConfig) -> anyhow::Result<()> {
    if !folder.join(dcff_train::CONFIG).exists() {
        return Ok(());
    }
    let mut saved = RunFolder::open(folder)?.1;
    let mut wanted = config.clone();
    for config in [&mut saved, &mut wanted] {
        if let MethodConfig::Prune(prune) = &mut config.method {
            // Which run trained the dense stage that it shares with others is no setting.
            prune.dense_from = None;
        }
        // Known only once the images are read; the run itself compares them.
        config.data.train_fingerprint.clear();
        config.data.test_fingerprint.clear();
    }
    match saved.difference(&wanted) {
        None => Ok(()),
        Some(difference) => bail!(
            "{}: holds a run of other settings: {difference}; name another folder with --out",
            folder.display()
        ),
    }
}

fn read_config(file: &Path) -> anyhow::Result<RunConfig> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let config: RunConfig = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", file.display(), error.message()))?;
    config
        .validate()
        .with_context(|| file.display().to_string())?;
    Ok(config)
}

/// A configuration from the flags, on top of a saved one or of the recipe's defaults, for the network `full` where it is
/// known already with the data's classes. Fingerprints are left as they are.
fn configure(
    args: &TrainArgs,
    saved: Option<&RunConfig>,
    full: Option<&Architecture>,
) -> anyhow::Result<RunConfig> {
    let epochs = method::epochs(&args.method, args.epochs)?;
    let mut config = match saved {
        Some(saved) => saved.clone(),
        None => defaults(args, epochs)?,
    };
    let arch = args.arch.clone().unwrap_or(config.arch);
    let full = match full {
        Some(full) => full.clone(),
        None => dcff_models::by_name(&arch).context("--arch")?,
    };
    if saved.is_some()
        && let Some(recipe) = &args.recipe
    {
        config.recipe = named_recipe(recipe, epochs, &full)?;
    }
    config.arch = arch;
    set(&mut config.seed, args.seed);
    set(&mut config.data.name, args.data.clone());
    set(&mut config.data.hold_out, args.hold_out);
    if let Some(name) = &args.augment {
        let found = Augment::ALL.iter().find(|(_, known)| known == name);
        (config.data.augment, _) = *found.with_context(|| {
            let known = Augment::ALL.map(|(_, name)| name).join(", ");
            format!("--augment: expected one of {known}, got '{name}'")
        })?;
    }
    let recipe = &mut config.recipe;
    set(&mut recipe.epochs, epochs);
    set(&mut recipe.batch_size, args.batch_size);
    set(&mut recipe.learning_rate, args.lr);
    set(&mut recipe.warmup_epochs, args.warmup_epochs);
    set(&mut recipe.momentum, args.momentum);
    set(&mut recipe.weight_decay, args.weight_decay);
    set(&mut recipe.label_smoothing, args.label_smoothing);
    set(&mut recipe.nesterov, args.nesterov);
    set(&mut recipe.select_on_test, args.select_on_test);
    set(&mut recipe.direct_convolution, args.direct_convolution);
    set(&mut recipe.deterministic, args.deterministic);
    if let Some(precision) = &args.precision {
        recipe.tf32 = precision == "tf32";
        recipe.precision = match precision.as_str() {
            "tf32" => Precision::F32,
            name => name.parse().context("--precision")?,
        };
    }
    match args.schedule.as_deref() {
        None => {}
        Some("constant") => recipe.schedule = Schedule::Constant,
        Some("cosine") => recipe.schedule = Schedule::Cosine,
        Some("multi-step") => recipe.schedule = halves_and_quarters(recipe.epochs),
        Some(other) => bail!("--schedule: expected multi-step, cosine or constant, got '{other}'"),
    }
    match (&mut recipe.schedule, &args.milestones, args.gamma) {
        (_, None, None) => {}
        (Schedule::MultiStep { milestones, gamma }, given, factor) => {
            set(milestones, given.clone());
            set(gamma, factor);
        }
        _ => bail!("--milestones and --gamma belong to --schedule multi-step"),
    }
    let saved = saved.map(|saved| &saved.method);
    config.method = method::method(&args.method, &full, &config.recipe, saved)?;
    Ok(config)
}

pub(super) fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *field = value;
    }
}

fn defaults(args: &TrainArgs, epochs: Option<usize>) -> anyhow::Result<RunConfig> {
    let missing = |flag: &str| anyhow::anyhow!("{flag}: expected a name; see dcff train --help");
    let arch = args.arch.clone().ok_or_else(|| missing("--arch"))?;
    let data = DataConfig {
        name: args.data.clone().ok_or_else(|| missing("--data"))?,
        train_fingerprint: String::new(),
        test_fingerprint: String::new(),
        hold_out: HOLD_OUT,
        augment: Augment::Standard,
    };
    let full = dcff_models::by_name(&arch).context("--arch")?;
    let recipe = args.recipe.as_deref().unwrap_or("published");
    let recipe = named_recipe(recipe, epochs, &full)?;
    Ok(RunConfig::new(arch, 1, data, MethodConfig::Dense, recipe))
}

fn named_recipe(name: &str, epochs: Option<usize>, full: &Architecture) -> anyhow::Result<Recipe> {
    Ok(match name {
        "published" => {
            let published = Recipe::published_cifar();
            let epochs = epochs.unwrap_or(published.epochs);
            Recipe {
                epochs,
                schedule: halves_and_quarters(epochs),
                ..published
            }
        }
        "quick" => Recipe::quick_for(full, epochs.unwrap_or(QUICK_EPOCHS)),
        other => bail!("--recipe: expected published or quick, got '{other}'"),
    })
}

/// The published milestones, 150 and 225 of 300 epochs, for any number of epochs.
fn halves_and_quarters(epochs: usize) -> Schedule {
    let mut milestones = vec![epochs / 2, epochs * 3 / 4];
    milestones.retain(|&milestone| milestone > 0);
    milestones.dedup();
    Schedule::MultiStep {
        milestones,
        gamma: 0.1,
    }
}

fn with_fingerprints(mut config: RunConfig, loaded: &Loaded) -> RunConfig {
    config.data.train_fingerprint = loaded.splits.train.fingerprint().to_owned();
    config.data.test_fingerprint = loaded.splits.test.fingerprint().to_owned();
    config
}

/// The first signal asks the run to stop, the second ends the program.
pub(crate) fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once");
    })?;
    Ok(stop)
}

fn print_summary(summary: &Summary, folder: &Path) {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    println!(
        "test accuracy: {} after the last epoch ({})",
        percent(summary.last.test.accuracy),
        summary.last.epoch
    );
    println!(
        "               {} after the chosen epoch ({}, by {})",
        percent(summary.chosen.test.accuracy),
        summary.chosen.epoch,
        summary.chosen_by
    );
    for (name, cost) in [("MACs", summary.macs), ("parameters", summary.params)] {
        println!(
            "{:<15}{} of {} ({})",
            format!("{name}:"),
            count(cost.compact),
            count(cost.full),
            change(cost.full, cost.compact, 2)
        );
    }
    if summary.training_macs > 0 {
        println!("{:<15}{} MACs", "training:", count(summary.training_macs));
    }
    println!(
        "{:<15}{} at {:.0} images/s",
        "time:",
        duration(summary.seconds),
        summary.images_per_second
    );
    println!(
        "{:<15}{}",
        "artefact:",
        folder.join(dcff_train::COMPACT).display()
    );
}
