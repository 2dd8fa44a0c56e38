//! `dcff export`.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use dcff_compact::Artefact;
use dcff_compact::export::{MODELING, ONNX, modeling, onnx};

use crate::args::{EXPORT_FORMATS, ExportArgs};
use crate::artefact;
use crate::ended::Ended;

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Ended> {
    ensure!(
        EXPORT_FORMATS.contains(&args.format.as_str()),
        "--format: expected {}, got '{}'",
        EXPORT_FORMATS.join(" or "),
        args.format
    );
    let pytorch = args.format == "pytorch";
    if args.out.is_none() {
        // Neither the Hub's cache nor the weights of a run are for us to change.
        ensure!(
            !artefact::is_on_hub(&args.artefact),
            "--out: expected a folder for what comes from the Hub"
        );
        ensure!(
            !(pytorch && args.fold_bn),
            "--out: expected a folder, since folding changes the weights"
        );
    }
    let path = artefact::folder(&args.artefact)?;
    let mut artefact = Artefact::load(&path)?;
    // Older versions wrote where the images lay.
    dcff_train::forget_places(&mut artefact.config.provenance);
    if args.fold_bn {
        artefact = artefact.fold_batch_norm()?;
    }
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    if pytorch {
        if args.out.is_some() {
            files.extend(artefact.to_files()?);
        }
        files.push((MODELING, modeling().as_bytes().to_vec()));
    } else {
        files.push((ONNX, onnx(&artefact)?));
    }
    let out = args.out.as_deref().unwrap_or(&path);
    write(out, &files)?;
    Ok(Ended::Done)
}

fn write(out: &Path, files: &[(&str, Vec<u8>)]) -> anyhow::Result<()> {
    if out.is_file() {
        bail!("{}: expected a folder, got a file", out.display());
    }
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for (name, bytes) in files {
        let path = out.join(name);
        dcff_file::write(&path, bytes)?;
        println!("{}", path.display());
    }
    Ok(())
}
