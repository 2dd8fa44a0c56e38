//! `dcff pull`.

use dcff_compact::Artefact;

use crate::args::PullArgs;
use crate::artefact::HUB;
use crate::ended::Ended;
use crate::hub;

pub(crate) fn run(args: &PullArgs) -> anyhow::Result<Ended> {
    let source = args.source.strip_prefix(HUB).unwrap_or(&args.source);
    let folder = hub::pull(source)?;
    // What does not load is of no use: say so now.
    Artefact::load(&folder)?;
    println!("{}", folder.display());
    Ok(Ended::Done)
}
