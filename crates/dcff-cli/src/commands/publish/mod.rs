//! `dcff publish`.
//!
//! What is uploaded is a tree of files in memory: a dry run writes exactly this tree to a folder.

mod card;
mod figures;
mod latency;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dcff_compact::export::{MODELING, ONNX, modeling, onnx};
use dcff_compact::{Artefact, CONFIG, WEIGHTS};
use dcff_hub::RepoId;
use dcff_report::table::{Align, Table};
use dcff_report::{PublishedTable, Run};
use dcff_run::MAX_TABLE_BYTES;
use dcff_train::{
    COMPACT, Known, METRICS, RunFolder, Summary, check_costs, full_of, without_place,
};

use crate::args::PublishArgs;
use crate::ended::Ended;

/// Where a dry run is written unless the user says otherwise.
const DRY_RUN: &str = "hub";
/// The card's file.
const CARD: &str = "README.md";
/// The configuration, metrics, summary, report and figures of the training.
const TRAINING: &str = "training";
/// What Python makes where the generated module was loaded; it is nobody's work.
const PYCACHE: &str = "__pycache__";
/// The report's file among the training's.
const REPORT: &str = "report.md";

/// The files of a repository: paths with `/`, bytes.
type Tree = BTreeMap<String, Vec<u8>>;

pub(crate) fn run(args: &PublishArgs) -> anyhow::Result<Ended> {
    let repo: RepoId = args.repo.parse()?;
    if args.dry_run {
        let out = args.out.clone().unwrap_or_else(|| args.run.join(DRY_RUN));
        // Before anything is measured.
        check_out(&out)?;
        let tree = tree(args)?;
        write(&out, &tree)?;
        print!("{}", listing(&tree));
        println!(
            "{}: what dcff publish would upload to {repo}",
            out.display()
        );
        return Ok(Ended::Done);
    }
    upload::run(args, &repo, tree(args)?)
}

/// Everything that goes to the Hub. The same run always gives the same tree.
fn tree(args: &PublishArgs) -> anyhow::Result<Tree> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    ensure!(
        !args.license.is_empty() && args.license.chars().all(known),
        "--license: expected an identifier such as mit or apache-2.0, got '{}'",
        args.license
    );
    let (folder, _) = RunFolder::open(&args.run, &Known)?;
    let mut summary = folder
        .summary(&Known)?
        .with_context(|| format!("{}: the run is not finished", args.run.display()))?;
    let mut artefact = Artefact::load(&folder.join(COMPACT))?;
    let full = full_of(&summary, &artefact.config)?;
    let context = || folder.join(dcff_train::SUMMARY).display().to_string();
    summary.check_accuracies().with_context(context)?;
    check_costs(&summary, &full, &artefact.config.architecture).with_context(context)?;
    if args.measure {
        latency::measure(folder.path(), &artefact, &full)?;
    }
    let latency = latency::read(folder.path())?;
    forget_places(&mut summary, &mut artefact);

    let mut tree = Tree::new();
    for (name, bytes) in artefact.to_files()? {
        tree.insert(name.to_owned(), bytes);
    }
    tree.insert(MODELING.to_owned(), modeling().as_bytes().to_vec());
    tree.insert(ONNX.to_owned(), onnx(&artefact)?);
    let figures = figures::draw(&Run::read(&args.run, &Known)?.metrics, &summary);
    let cfg = &artefact.config.pretrained_cfg;
    let card = card::Card {
        repo: &args.repo,
        license: &args.license,
        summary: &summary,
        data: dcff_data::find(&summary.config.data.name).ok(),
        latency: latency.as_ref(),
        figures: &figures,
        input: cfg.input_size,
        labels: &cfg.label_names,
    };
    tree.insert(CARD.to_owned(), card.text().into_bytes());
    for figure in &figures {
        let svg = figure.plot.standalone().into_bytes();
        tree.insert(figure.file.to_owned(), svg);
    }

    let mut training = |name: &str, bytes: Vec<u8>| {
        tree.insert(format!("{TRAINING}/{name}"), bytes);
    };
    training(
        dcff_train::CONFIG,
        toml::to_string(&summary.config)?.into_bytes(),
    );
    training(
        METRICS,
        dcff_file::read(&folder.join(METRICS), MAX_TABLE_BYTES)?,
    );
    let text = serde_json::to_string_pretty(&summary)?;
    training(dcff_train::SUMMARY, format!("{text}\n").into_bytes());
    let table = PublishedTable::of_summary(&args.repo, &summary, &Known, None);
    training(REPORT, table.markdown().into_bytes());
    Ok(tree)
}

/// Takes out what only means something on this machine, in the summary and in the configuration that the artefact carries.
fn forget_places(summary: &mut Summary, artefact: &mut Artefact) {
    dcff_train::forget_places(&mut artefact.config.provenance);
    let config = &mut summary.config;
    config.data = without_place(&config.data);
    config.method.forget_dense_from();
}

/// Refuses a folder that is neither free nor an earlier dry run as that left it: a dry run takes the whole folder's place.
fn check_out(out: &Path) -> anyhow::Result<()> {
    let refuse = |detail: &str| {
        anyhow::bail!(
            "{}: expected a new or empty folder, or that of an earlier dry run; {detail}",
            out.display()
        )
    };
    let mut found = BTreeSet::new();
    match std::fs::symlink_metadata(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| out.display().to_string()),
        // The link would be replaced, not where it leads.
        Ok(entry) if !entry.is_dir() => return refuse("it is a file or a link"),
        Ok(_) => entries(out, "", &mut found)?,
    }
    if found.is_empty() {
        return Ok(());
    }
    let training = [dcff_train::CONFIG, METRICS, dcff_train::SUMMARY, REPORT];
    let always: BTreeSet<String> = [CARD, CONFIG, ONNX, WEIGHTS, MODELING]
        .map(str::to_owned)
        .into_iter()
        .chain(training.map(|name| format!("{TRAINING}/{name}")))
        .collect();
    let folders = [TRAINING, PYCACHE].map(|name| format!("{name}/"));
    let compiled = format!("{PYCACHE}/{}", MODELING.replace(".py", "."));
    let known = |name: &String| {
        always.contains(name)
            || figures::FILES.contains(&&**name)
            || folders.contains(name)
            || (name.starts_with(&compiled) && name.ends_with(".pyc"))
    };
    if let Some(foreign) = found.iter().find(|name| !known(name)) {
        return refuse(&format!("it holds {foreign}, which no dry run writes"));
    }
    match always.difference(&found).next() {
        Some(missing) => refuse(&format!("it has no {missing}")),
        None => Ok(()),
    }
}

/// Adds what the folder holds to `found`: paths inside it with `/`, those of folders with a `/` at the end. Only folders
/// that a dry run may have are looked into.
fn entries(folder: &Path, before: &str, found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let context = || folder.display().to_string();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let kind = entry.file_type().with_context(context)?;
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        if !kind.is_dir() {
            // A link is not what a dry run writes, whatever its name.
            let mark = if kind.is_file() { "" } else { " (a link)" };
            found.insert(format!("{name}{mark}"));
            continue;
        }
        if name == TRAINING || name == PYCACHE {
            entries(&entry.path(), &format!("{name}/"), found)?;
        }
        found.insert(format!("{name}/"));
    }
    Ok(())
}

/// Writes the tree to `out`, in the place of an earlier dry run or where nothing is.
fn write(out: &Path, tree: &Tree) -> anyhow::Result<()> {
    check_out(out)?;
    if let Some(parent) = out.parent().filter(|parent| *parent != Path::new("")) {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    Ok(dcff_file::write_folder(out, |folder| {
        tree.iter().try_for_each(|(name, bytes)| {
            let path: PathBuf = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|reason| dcff_file::Error::Io {
                    path: parent.to_owned(),
                    reason,
                })?;
            }
            dcff_file::write(&path, bytes)
        })
    })?)
}

fn listing(tree: &Tree) -> String {
    let mut table = Table::new([("file", Align::Left), ("bytes", Align::Right)]);
    for (name, bytes) in tree {
        table.row([name.clone(), bytes.len().to_string()]);
    }
    table.text()
}

#[cfg(not(feature = "hub"))]
mod upload {
    use super::*;

    pub(super) fn run(_: &PublishArgs, _: &RepoId, _: Tree) -> anyhow::Result<Ended> {
        anyhow::bail!(
            "publishing: this program was built without the cargo feature 'hub'; --dry-run works without it"
        )
    }
}

#[cfg(feature = "hub")]
mod upload {
    use dcff_hub::PublishOptions;

    use super::*;
    use crate::hub;

    pub(super) fn run(args: &PublishArgs, repo: &RepoId, tree: Tree) -> anyhow::Result<Ended> {
        let options = PublishOptions {
            revision: args.revision.clone(),
            private: args.private,
            create_pr: args.create_pr,
            message: "Upload a compact network with dcff".into(),
        };
        let published = hub::publish(repo, &tree, &options)?;
        if published.created {
            println!("{repo}: made");
        }
        if published.uploaded.is_empty() {
            println!("{}: all files are there already", published.url);
        } else {
            let sent = |name: &String| published.uploaded.contains(name);
            let sent: Tree = tree.into_iter().filter(|(name, _)| sent(name)).collect();
            print!("{}", listing(&sent));
            println!("{}", published.url);
        }
        Ok(Ended::Done)
    }
}
