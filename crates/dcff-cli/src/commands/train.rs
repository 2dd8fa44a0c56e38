//! `dcff train`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use dcff_data::{Augmentation, Loaded, Wanted};
use dcff_models::Architecture;
use dcff_report::table::{change, count, duration};
use dcff_train::methods::{self, METHODS};
use dcff_train::{
    Augment, Data, DataConfig, Distil, Ending, Known, MethodConfig, Precision, Recipe, RunConfig,
    RunFolder, Schedule, Summary, Trainer, augmentation, check_dense, dense_of, full_network,
    quick_for,
};

use super::method;
use crate::args::TrainArgs;
use crate::data;
use crate::ended::Ended;
use crate::progress::Progress;

/// The share held out when neither flag nor recipe says otherwise.
const HOLD_OUT: f64 = 0.05;
/// Epochs of the quick recipe.
const QUICK_EPOCHS: usize = 15;
/// Steps measured by `--estimate`.
const ESTIMATE_STEPS: usize = 8;

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Ended> {
    let saved = match (&args.resume, &args.config) {
        (Some(folder), _) => Some(RunFolder::open(folder, &Known)?.1),
        (None, Some(file)) => Some(read_config(file)?),
        (None, None) => None,
    };
    // Everything that needs no images is checked before they are read.
    let draft = configure(args, saved.as_ref(), None)?;
    draft
        .validate()
        .map_err(|error| typed(args, error.into()))?;
    if let (true, Some(out)) = (args.check, &args.out) {
        methods::plan(&draft, &full_network(&draft)?).map_err(|error| typed(args, error))?;
        check_folder(out, &draft)?;
        return Ok(Ended::Done);
    }
    let device = args.device.open()?;
    dcff_train::configure(&draft.recipe, &device)?;
    if let (Some(folder), Some(saved)) = (&args.resume, &saved) {
        check_resumed(folder, saved, &draft)?;
    }
    methods::plan(&draft, &full_network(&draft)?).map_err(|error| typed(args, error))?;
    if let (Some(file), Some(saved)) = (&args.config, &saved)
        && let Some(moved) = moved(args, saved, &draft)
    {
        eprintln!("{}: {moved}", file.display());
    }
    let place = match &args.data {
        Some(_) => draft.data.name.clone(),
        None => place(&draft, args.resume.as_deref().or(args.config.as_deref()))?,
    };
    let native = dcff_models::by_name(&draft.arch)?;
    let loaded = data::load(
        &place,
        &args.data_dir,
        &wanted(&draft, &native, args.skip_bad),
    )?;
    let full = network(args, &draft, &native, &loaded)?;
    let saved_epochs = saved.as_ref().map(|saved| saved.recipe.epochs);
    let config = match saved {
        // Where the images are now is not part of the run.
        Some(saved) if args.resume.is_some() => RunConfig {
            data: saved.data,
            ..draft
        },
        // Once more, as a budget depends on the number of classes.
        saved => {
            let config = configure(args, saved.as_ref(), Some(&full))?;
            with_images(config, &native, &place, &loaded)?
        }
    };
    config
        .validate()
        .map_err(|error| typed(args, error.into()))?;
    let data = Data::new(
        loaded.splits,
        loaded.info.normalisation,
        loaded.info.augmentation,
    );
    data.check(&config, &full)
        .map_err(|error| typed(args, error))?;
    if let (Some(from), None) = (config.method.dense_from(), &args.resume) {
        let plan = methods::plan(&config, &full)?;
        check_dense(&from, &config, &full, &plan.stages)?;
    }
    // Before anything of a run that is continued is changed; one that is over needs no more than its summary.
    let over = args.resume.as_ref().is_some_and(|folder| {
        folder.join(dcff_train::SUMMARY).exists() && saved_epochs == Some(config.recipe.epochs)
    });
    if !over {
        let classes = data.train.classes();
        methods::check(&config, &full, classes).map_err(|error| typed(args, error))?;
    }
    if args.estimate {
        let scratch = tempfile::tempdir()?;
        let folder = RunFolder::create(&scratch.path().join("run"), &config)?;
        let seconds = Trainer::builder(folder, config, &full, &data, &device)
            .build()?
            .estimate(ESTIMATE_STEPS)?;
        println!("{seconds:.1}");
        return Ok(Ended::Done);
    }
    let folder = match (&args.resume, &args.out) {
        (Some(folder), _) => {
            let (folder, saved) = RunFolder::open(folder, &Known)?;
            if saved.recipe.epochs < config.recipe.epochs {
                folder.train_on(&config)?;
            }
            folder
        }
        (None, Some(out)) => RunFolder::create(out, &config)?,
        (None, None) => bail!("expected --out or --resume"),
    };
    if let Some(summary) = folder.summary(&Known)? {
        if let Some(difference) = summary.config.difference(&config) {
            bail!(
                "{}: the finished run had other settings: {difference}",
                folder.join(dcff_train::CONFIG).display()
            );
        }
        eprintln!(
            "{}: all {} epochs are done",
            folder.path().display(),
            config.recipe.epochs
        );
        print_summary(&summary, folder.path());
        return Ok(Ended::Done);
    }
    let mut trainer = Trainer::builder(folder.clone(), config, &full, &data, &device).build()?;
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
    methods::plan(&config, &full_network(&config)?)?;
    Ok(config)
}

/// Refuses flags that change a run, except that it may be given more epochs.
fn check_resumed(folder: &Path, saved: &RunConfig, draft: &RunConfig) -> anyhow::Result<()> {
    let mut same = draft.clone();
    let (had, wants) = (saved.recipe.epochs, draft.recipe.epochs);
    if wants < had {
        bail!("--epochs: expected more than the {had} epochs of the run, got {wants}");
    }
    same.recipe.epochs = had;
    match saved.difference(&same) {
        None => Ok(()),
        Some(difference) => bail!(
            "{}: a resumed run keeps its configuration: {difference}",
            folder.join(dcff_train::CONFIG).display()
        ),
    }
}

/// How the images are to be read.
pub(super) fn wanted(config: &RunConfig, native: &Architecture, skip_bad: bool) -> Wanted {
    let augment = config.data.augment;
    Wanted {
        input: config.data.input_size,
        network: Some(native.input),
        crop_pct: augment.crop_pct(),
        interpolation: None,
        area: augmentation(augment, Augmentation::NONE).area,
        skip_bad: skip_bad || config.data.skipped.is_some(),
    }
}

/// Where the images are that no flag says the place of: where a folder of images lay when the run began, or lies when it is named from
/// here or from beside the `run`.
pub(super) fn place(config: &RunConfig, run: Option<&Path>) -> anyhow::Result<String> {
    let name = config.data.name.clone();
    if dcff_data::find(&name).is_ok() {
        return Ok(name);
    }
    let bare = Path::new(name.strip_prefix("folder:").unwrap_or(&name));
    let beside = run.and_then(Path::parent).map(|folder| folder.join(bare));
    let places = [config.data.path.clone(), Some(bare.to_owned()), beside];
    let found = places.iter().flatten().find(|place| place.is_dir());
    match found {
        Some(place) => Ok(format!("folder:{}", place.display())),
        None => {
            let place = config.data.path.as_deref().unwrap_or(bare).display();
            bail!(
                "{place}: the run's images are not there any more: say with --data where they are"
            )
        }
    }
}

/// The network for the images that were read, of their size and classes.
fn network(
    args: &TrainArgs,
    config: &RunConfig,
    native: &Architecture,
    loaded: &Loaded,
) -> anyhow::Result<Architecture> {
    let input = loaded.splits.train.shape();
    let full = native.clone().with_classes(loaded.info.classes.len());
    if input == native.input {
        return Ok(full);
    }
    let full = full.with_input(input);
    check_input(args, native, &full)?;
    if config.data.input_size.is_none() {
        eprintln!(
            "{}: {} is trained for images of {}, as these are; its own size is --input-size {}",
            config.data.name,
            config.arch,
            sides(input),
            sides(native.input)
        );
    }
    Ok(full)
}

/// Refuses a size of images that `full`, which is `native` for that size, cannot take.
fn check_input(args: &TrainArgs, native: &Architecture, full: &Architecture) -> anyhow::Result<()> {
    let Err(error) = full.shapes() else {
        return Ok(());
    };
    let flag = match args.input_size {
        Some(_) => "--input-size",
        None => "--data",
    };
    bail!(
        "{flag}: {} cannot take images of {} (channels, height, width): {error}; its own size is --input-size {}",
        native.name,
        sides(full.input),
        sides(native.input)
    );
}

/// A size as `--input-size` takes it.
fn sides([c, h, w]: [usize; 3]) -> String {
    format!("{c},{h},{w}")
}

/// An error about a setting that was typed names the flag.
fn typed(args: &TrainArgs, error: dcff_train::Error) -> anyhow::Error {
    let dcff_train::Error::Setting { field, message } = error else {
        return error.into();
    };
    let flags: [(&str, &str, bool); 18] = [
        ("distil", "--distil", args.distil.is_some()),
        (
            "distil.weight",
            "--distil-weight",
            args.distil_weight.is_some(),
        ),
        (
            "distil.temperature",
            "--distil-temperature",
            args.distil_temperature.is_some(),
        ),
        ("data.name", "--data", args.data.is_some()),
        ("data.train_fingerprint", "--data", args.data.is_some()),
        ("data.test_fingerprint", "--data", args.data.is_some()),
        ("data.hold_out", "--hold-out", args.hold_out.is_some()),
        ("seed", "--seed", args.seed.is_some()),
        ("recipe.epochs", "--epochs", args.epochs.is_some()),
        (
            "recipe.batch_size",
            "--batch-size",
            args.batch_size.is_some(),
        ),
        ("recipe.learning_rate", "--lr", args.lr.is_some()),
        ("recipe.momentum", "--momentum", args.momentum.is_some()),
        (
            "recipe.weight_decay",
            "--weight-decay",
            args.weight_decay.is_some(),
        ),
        (
            "recipe.label_smoothing",
            "--label-smoothing",
            args.label_smoothing.is_some(),
        ),
        (
            "recipe.warmup_epochs",
            "--warmup-epochs",
            args.warmup_epochs.is_some(),
        ),
        ("recipe.schedule.gamma", "--gamma", args.gamma.is_some()),
        (
            "recipe.schedule.milestones",
            "--milestones",
            args.milestones.is_some(),
        ),
        ("recipe.tf32", "--precision", args.precision.is_some()),
    ];
    let flag = flags.iter().find(|(key, _, given)| *key == field && *given);
    // What methods are told is listed where the flags become keys.
    let key = field.strip_prefix("method.").unwrap_or(&field);
    let typed = args.method.typed();
    let flag = flag.map(|(_, flag, _)| *flag);
    match flag.or_else(|| Some(typed.get(key)?.flag.as_str())) {
        Some(flag) => anyhow::anyhow!("{flag}: {message}"),
        None => dcff_train::Error::Setting { field, message }.into(),
    }
}

/// Refuses a folder that holds a run of other settings than those of `config`, whose fingerprints are not known yet.
pub(crate) fn check_folder(folder: &Path, config: &RunConfig) -> anyhow::Result<()> {
    if !folder.join(dcff_train::CONFIG).exists() {
        return Ok(());
    }
    let mut saved = RunFolder::open(folder, &Known)?.1;
    let mut wanted = config.clone();
    if wanted.data.input_size.is_none() {
        // That of the images, then.
        saved.data.input_size = None;
    }
    for config in [&mut saved, &mut wanted] {
        // Which run trained the dense stage that it shares with others is no setting.
        config.method.forget_dense_from();
        // Known only once the images are read; the run itself compares them.
        config.data.train_fingerprint.clear();
        config.data.test_fingerprint.clear();
        config.data.skipped = None;
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
    let config: RunConfig = dcff_train::toml_file::read(file)?;
    let config = methods::complete(config).with_context(|| file.display().to_string())?;
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
    config.arch = args.arch.clone().unwrap_or(config.arch);
    if let Some(input) = args.input_size {
        config.data.input_size = Some(input);
    }
    let full = match full {
        Some(full) => full.clone(),
        None => full_network(&config).context("--arch")?,
    };
    if config.data.input_size.is_some() {
        check_input(args, &dcff_models::by_name(&config.arch)?, &full)?;
    }
    if saved.is_some()
        && let Some(recipe) = &args.recipe
    {
        config.recipe = named_recipe(recipe, epochs, &full)?;
    }
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
    // A resumed run keeps its configuration; what differs is reported as it was typed.
    let fresh = args.resume.is_none();
    if let Some(epochs) = epochs.filter(|&epochs| fresh && epochs != recipe.epochs) {
        let usual = recipe.schedule == halves_and_quarters(recipe.epochs);
        recipe.schedule = match usual {
            true => halves_and_quarters(epochs),
            false => recipe.schedule.scaled(recipe.epochs, epochs),
        };
    }
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
        // A way to multiply; maps are stored as they are without it.
        let stored = if recipe.tf32 { "f32" } else { precision };
        recipe.precision = stored.parse().map_err(|_| {
            let known = Precision::ALL.map(|(_, name)| name).join(", ");
            anyhow::anyhow!("--precision: expected one of {known}, tf32, got '{precision}'")
        })?;
    }
    match args.schedule.as_deref() {
        None => {}
        Some("constant") => recipe.schedule = Schedule::Constant,
        Some("cosine") => recipe.schedule = Schedule::cosine(),
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
    if fresh && let Schedule::MultiStep { milestones, .. } = &recipe.schedule {
        let epochs = recipe.epochs;
        if let Some(late) = milestones.iter().find(|&&m| m >= epochs && epochs > 0) {
            bail!("--milestones: expected epochs below the {epochs} of --epochs, got {late}");
        }
    }
    let saved = saved
        .map(|saved| match fresh {
            true => methods::in_proportion(&saved.method, &saved.recipe, &config.recipe),
            false => Ok(saved.method.clone()),
        })
        .transpose()?;
    config.method = method::method(&args.method, &full, &config.recipe, saved.as_ref())?;
    if let Some(teacher) = &args.distil {
        let teacher = dense_of(teacher).context("--distil")?;
        config.distil = Some(match config.distil.take() {
            Some(saved) => Distil { teacher, ..saved },
            None => Distil::new(teacher),
        });
    }
    let given = [
        ("--distil-weight", args.distil_weight),
        ("--distil-temperature", args.distil_temperature),
    ];
    match (
        &mut config.distil,
        given.iter().find(|flag| flag.1.is_some()),
    ) {
        (Some(distil), _) => {
            set(&mut distil.weight, args.distil_weight);
            set(&mut distil.temperature, args.distil_temperature);
        }
        (None, Some((flag, _))) => {
            bail!("{flag}: expected a teacher beside it (--distil), got none")
        }
        (None, None) => {}
    }
    Ok(config)
}

/// What flags changed of a saved configuration without naming it.
fn moved(args: &TrainArgs, saved: &RunConfig, config: &RunConfig) -> Option<String> {
    let mut parts = Vec::new();
    if let (Schedule::MultiStep { milestones: a, .. }, Schedule::MultiStep { milestones: b, .. }) =
        (&saved.recipe.schedule, &config.recipe.schedule)
        && (&args.milestones, &args.schedule, &args.recipe) == (&None, &None, &None)
        && a != b
    {
        parts.push(format!("milestones = {b:?}"));
    }
    if saved.method.name == config.method.name {
        for (key, flags) in [
            (
                "dense_epochs",
                args.method.dense_epochs.is_some() || args.method.finetune_epochs.is_some(),
            ),
            ("finetune_learning_rate", args.method.finetune_lr.is_some()),
        ] {
            let [a, b] = [saved, config].map(|config| config.method.settings.get(key));
            if let (false, true, Some(value)) = (flags, a != b, b) {
                // As it is typed: 0.02, not 0.020000000000000004.
                let value = match value.as_f64() {
                    Some(number) => (number as f32).to_string(),
                    None => value.to_string(),
                };
                parts.push(format!("{key} = {value}"));
            }
        }
    }
    let text = parts.join(", ");
    (!text.is_empty()).then(|| format!("moved with --epochs, --lr or --recipe: {text}"))
}

pub(super) fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *field = value;
    }
}

fn defaults(args: &TrainArgs, epochs: Option<usize>) -> anyhow::Result<RunConfig> {
    let missing = |flag: &str| anyhow::anyhow!("{flag}: expected a name; see dcff train --help");
    let arch = args.arch.clone().ok_or_else(|| missing("--arch"))?;
    let name = args.data.clone().ok_or_else(|| missing("--data"))?;
    let data = DataConfig::named(name, HOLD_OUT);
    let full = dcff_models::by_name(&arch).context("--arch")?;
    let recipe = args.recipe.as_deref().unwrap_or("published");
    let recipe = named_recipe(recipe, epochs, &full)?;
    Ok(RunConfig::new(
        arch,
        1,
        data,
        MethodConfig::named(METHODS[0].name()),
        recipe,
    ))
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
        "quick" => quick_for(full, epochs.unwrap_or(QUICK_EPOCHS)),
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

/// `config` with what is known of the images at `place` once they are read.
fn with_images(
    mut config: RunConfig,
    native: &Architecture,
    place: &str,
    loaded: &Loaded,
) -> anyhow::Result<RunConfig> {
    let (data, shape) = (&mut config.data, loaded.splits.train.shape());
    data.train_fingerprint = loaded.splits.train.fingerprint().to_owned();
    data.test_fingerprint = loaded.splits.test.fingerprint().to_owned();
    data.input_size = (shape != native.input || data.input_size.is_some()).then_some(shape);
    data.skipped = (loaded.skipped > 0).then_some(loaded.skipped);
    data.path = match dcff_data::find(&data.name) {
        Ok(_) => None,
        Err(_) => {
            let path = place.strip_prefix("folder:").unwrap_or(place);
            Some(std::path::absolute(path)?)
        }
    };
    Ok(config)
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
    if summary.constants > 0 {
        println!(
            "{:<15}{} of these parameters, for what removed filters contributed",
            "constants:",
            count(summary.constants)
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

#[cfg(test)]
mod tests {
    use dcff_train::methods::PruneConfig;

    use super::*;
    use crate::args::{Cli, Command};

    /// What `flags` make of a run of 20 epochs at a rate of 0.1 under `method`, and what they move without naming it.
    fn from(
        schedule: Schedule,
        method: MethodConfig,
        flags: &str,
    ) -> anyhow::Result<(RunConfig, Option<String>)> {
        let line = format!("dcff train --config saved --out new {flags}");
        let Command::Train(args) = Cli::read(line.split_whitespace())?.command else {
            bail!("expected train");
        };
        let recipe = Recipe {
            epochs: 20,
            schedule,
            ..Recipe::published_cifar()
        };
        let data = DataConfig::named("synthetic", HOLD_OUT);
        let saved = RunConfig::new("resnet20", 1, data, method, recipe);
        let config = configure(&args, Some(&saved), None)?;
        config.validate()?;
        let moved = moved(&args, &saved, &config);
        Ok((config, moved))
    }

    fn milestones(flags: &str, saved: &[usize]) -> anyhow::Result<Vec<usize>> {
        let schedule = Schedule::MultiStep {
            milestones: saved.to_vec(),
            gamma: 0.1,
        };
        match from(schedule, MethodConfig::named("dense"), flags)?
            .0
            .recipe
            .schedule
        {
            Schedule::MultiStep { milestones, .. } => Ok(milestones),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn milestones_move_with_the_epochs() {
        assert_eq!(milestones("", &[10, 15]).unwrap(), [10, 15]);
        assert_eq!(milestones("--epochs 4", &[10, 15]).unwrap(), [2, 3]);
        assert_eq!(milestones("--epochs 300", &[10, 15]).unwrap(), [150, 225]);
        assert_eq!(milestones("--epochs 10", &[8, 16]).unwrap(), [4, 8]);
        let named = "--epochs 4 --milestones 1,2";
        assert_eq!(milestones(named, &[10, 15]).unwrap(), [1, 2]);
        for (flags, saved) in [("--milestones 10,20", [10, 15]), ("", [10, 20])] {
            assert_eq!(
                milestones(flags, &saved).unwrap_err().to_string(),
                "--milestones: expected epochs below the 20 of --epochs, got 20"
            );
        }
    }

    fn pruned() -> MethodConfig {
        let recipe = Recipe {
            epochs: 20,
            ..Recipe::published_cifar()
        };
        let rates = dcff_fusion::rates_for("0.5", "resnet20").unwrap();
        let prune = PruneConfig::new("l1-norm", rates, &recipe).unwrap();
        MethodConfig::new("prune", prune).unwrap()
    }

    #[test]
    fn the_stages_of_pruning_move_with_epochs_and_rate() {
        let stages = |flags: &str| {
            let (config, moved) = from(Schedule::cosine(), pruned(), flags).unwrap();
            let prune: PruneConfig = config.method.read().unwrap();
            (prune.dense_epochs, prune.finetune_learning_rate, moved)
        };
        assert_eq!(stages(""), (10, 0.1 * 0.1, None));
        let (dense, rate, moved) = stages("--epochs 8 --lr 0.2");
        assert_eq!((dense, rate), (4, 0.1 * 0.2));
        assert_eq!(
            moved.unwrap(),
            "moved with --epochs, --lr or --recipe: dense_epochs = 4, finetune_learning_rate = 0.02"
        );
        let named = "--epochs 8 --dense-epochs 2 --lr 0.2 --finetune-lr 0.5";
        assert_eq!(stages(named), (2, 0.5, None));
        // What was chosen keeps its share.
        let mut chosen = pruned();
        chosen.settings.insert("dense_epochs".into(), 15.into());
        chosen
            .settings
            .insert("finetune_learning_rate".into(), 0.05.into());
        let (config, _) = from(Schedule::cosine(), chosen, "--epochs 4 --lr 0.2").unwrap();
        let prune: PruneConfig = config.method.read().unwrap();
        assert_eq!((prune.dense_epochs, prune.finetune_learning_rate), (3, 0.1));
    }

    #[test]
    fn a_criterion_goes_with_its_run_to_another_method() {
        for flags in ["--method dcff", "--method select", "--pipeline scratch"] {
            let (config, _) = from(Schedule::cosine(), pruned(), flags).unwrap();
            assert_eq!(config.method.text("criterion"), Some("l1-norm"), "{flags}");
            let name = flags.trim_start_matches("--method ");
            assert_eq!(
                config.method.name,
                name.replace("--pipeline scratch", "dcff")
            );
            let (config, _) = from(Schedule::cosine(), config.method, "--method prune").unwrap();
            assert_eq!(config.method, pruned());
        }
    }

    #[test]
    fn any_setting_of_a_method_can_be_set() {
        let of = |flags: &str| from(Schedule::cosine(), pruned(), flags);
        let (config, _) = of("--set steps=3 --set keep=fuse").unwrap();
        assert_eq!(config.method.settings["steps"], 3);
        assert_eq!(config.method.text("keep"), Some("fuse"));
        let message = format!("{:#}", of("--set stepz=3").unwrap_err());
        assert!(
            message.starts_with("--set: method: unknown field `stepz`"),
            "{message}"
        );
        let message = of("--set steps").unwrap_err().to_string();
        assert_eq!(message, "--set: expected KEY=VALUE, got 'steps'");
    }
}
