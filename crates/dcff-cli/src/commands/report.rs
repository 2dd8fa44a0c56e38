//! `dcff report`: tables, figures and words from run folders, and nothing else.

use std::path::{Path, PathBuf};

use dcff_report::{Options, Report, Run, Status};
use dcff_train::Known;

use crate::args::ReportArgs;
use crate::ended::Ended;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<Ended> {
    let options = Options {
        layer: args.layer.clone(),
        command: args.command.clone(),
    };
    match &args.out {
        None => print!("{}", report(&args.runs, None, options)?.markdown()),
        Some(out) => write(&args.runs, out, options)?,
    }
    Ok(Ended::Done)
}

/// Writes the report of the runs in `folders` to the folder `out`.
pub(crate) fn write(folders: &[PathBuf], out: &Path, options: Options) -> anyhow::Result<()> {
    report(folders, Some(out), options)?.write(out)?;
    println!("{}", out.join("report.html").display());
    Ok(())
}

fn report(folders: &[PathBuf], out: Option<&Path>, options: Options) -> anyhow::Result<Report> {
    let mut runs = Vec::new();
    // On a terminal runs are called as they were typed.
    let shared = out.and_then(|_| shared_parent(folders));
    for folder in folders {
        let mut run = Run::read_or_mark(folder, &Known)?;
        // A report that moves with its runs names them from where it stands.
        let beside = out
            .and_then(Path::parent)
            .and_then(|parent| folder.strip_prefix(parent).ok())
            .or_else(|| folder.strip_prefix(shared.as_deref()?).ok());
        if let Some(name) = beside.filter(|name| !name.as_os_str().is_empty()) {
            run.name = name.display().to_string();
            if let Status::Failed(failure) = &mut run.status {
                *failure = failure.replace(&folder.display().to_string(), &run.name);
            }
        }
        runs.push(run);
    }
    Ok(Report::new(runs, options)?)
}

/// What all absolute paths among `folders` have in common, but for their last parts: where that is, is nobody's business.
fn shared_parent(folders: &[PathBuf]) -> Option<PathBuf> {
    let mut parents = folders
        .iter()
        .filter(|folder| folder.is_absolute())
        .filter_map(|folder| folder.parent());
    let mut shared = parents.next()?;
    for parent in parents {
        while !parent.starts_with(shared) {
            shared = shared.parent()?;
        }
    }
    Some(shared.to_owned())
}
