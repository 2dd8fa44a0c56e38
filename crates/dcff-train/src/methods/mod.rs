//! The methods: each is one file that implements [`Method`](crate::Method).

mod dense;
mod filter_fusion;
mod prune;

use dcff_fusion::Rates;
use dcff_models::Architecture;

pub use dense::Dense;
pub use filter_fusion::{EVIDENCE_IMAGES, FilterFusion, FilterFusionConfig};

pub use prune::{Prune, PruneConfig};

use crate::{Error, Result};

/// `full` with the share of each channel space that `rates` leave.
fn narrowed_by_rates(full: &Architecture, rates: &Rates) -> Result<Architecture> {
    let spaces = &full.spaces;
    let slots = rates.for_slots(spaces.len()).ok_or_else(|| {
        let got = match rates {
            Rates::List(list) => list.len(),
            Rates::Uniform(_) => 1,
        };
        let message = format!(
            "{} has {} compression rates, one per channel space, got {got}",
            full.name,
            spaces.len()
        );
        Error::setting("rates", message)
    })?;
    let mut widths = Vec::with_capacity(spaces.len());
    for (space, rate) in spaces.iter().zip(slots) {
        match rate.kept(space.width) {
            0 => {
                let message = format!(
                    "{}: rate {rate} keeps 0 of {} filters",
                    space.name, space.width
                );
                return Err(Error::setting("rates", message));
            }
            kept => widths.push(kept),
        }
    }
    Ok(full.narrowed(&widths)?)
}
