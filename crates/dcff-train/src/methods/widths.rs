//! Widths from rates or from a budget, as the methods that take them read the command line.

use dcff_flops::{Budget, BudgetError, Measure};
use dcff_fusion::Rates;
use dcff_models::Architecture;

use crate::entry::Given;
use crate::error::{Error, Result};

/// What the command line can say of widths, and then what else a method is told.
macro_rules! width_keys {
    ($($key:literal),* $(,)?) => {
        &[
            "rates",
            "target_macs",
            "target_params",
            "min_keep",
            "round_to",
            "allocation",
            $($key),*
        ]
    };
}
pub(super) use width_keys;

/// `full` with the share of each channel space that `rates` leave.
///
/// # Errors
/// When they are not as many as the channel spaces, or leave nothing of one.
pub fn narrowed(full: &Architecture, rates: &Rates) -> Result<Architecture> {
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

/// The rates that a method begins with: those that were typed, those of another method, or the published ones.
pub(super) fn first(given: &Given<'_>, typed: Option<&Rates>) -> Result<Rates> {
    if let Some(rates) = typed {
        return Ok(rates.clone());
    }
    match given.inherited("rates")? {
        Some(rates) => Ok(rates),
        None => rates(given, "published"),
    }
}

/// `--rates TEXT`.
fn rates(given: &Given<'_>, text: &str) -> Result<Rates> {
    dcff_fusion::rates_for(text, &given.full.name)
        .map_err(|error| Error::setting("--rates", error.to_string()))
}

/// Whether one threshold on the scores of all layers is asked for.
pub(super) fn allocated_globally(given: &Given<'_>) -> Result<bool> {
    let allocation = given.parse::<String>("allocation")?;
    Ok(allocation.as_deref() == Some("global"))
}

/// The rates that the command line asks for, if it does: those of `rates`, or one for all layers that meets a budget,
/// rounded where that is asked for.
///
/// # Errors
/// Values that are none, flags that mean nothing without others, and a budget by scores, which needs a trained network.
pub fn uniform(given: &Given<'_>) -> Result<Option<Rates>> {
    if allocated_globally(given)? {
        let message = "global needs the scores of a trained network: expected --method prune";
        return Err(Error::setting("--allocation", message));
    }
    of_budget(given)
}

/// As [`uniform`], whatever the allocation: the widths that a budget by scores is first measured by.
pub(super) fn of_budget(given: &Given<'_>) -> Result<Option<Rates>> {
    let widths = given.full.widths();
    let text = given.parse::<String>("rates")?;
    if let Some(budget) = budget(given)? {
        if text.is_some() {
            let message = "expected either rates or a target, got both";
            return Err(Error::setting("--rates", message));
        }
        let flag = target(given).map_or("", |(_, flag)| flag);
        let kept = budget.uniform(given.full);
        let kept = kept.map_err(|error| Error::setting(flag, error.to_string()))?;
        return Ok(Some(Rates::keeping(&kept, &widths)?));
    }
    refuse_without_target(given)?;
    let Some(text) = text else {
        return Ok(None);
    };
    let rates = rates(given, &text)?;
    let step: Option<usize> = given.parse("round_to")?;
    let (Some(step), Some(slots)) = (step, rates.for_slots(widths.len())) else {
        return Ok(Some(rates));
    };
    let rounded: Vec<usize> = slots
        .iter()
        .zip(&widths)
        .map(|(rate, &width)| (rate.kept(width) / step * step).max(step).min(width))
        .collect();
    Ok(Some(Rates::keeping(&rounded, &widths)?))
}

/// What a target counts, and its flag.
fn target(given: &Given<'_>) -> Option<(Measure, &'static str)> {
    let targets = [
        ("target_macs", Measure::Macs, "--target-macs"),
        ("target_params", Measure::Params, "--target-params"),
    ];
    let (_, measure, flag) = targets
        .into_iter()
        .find(|(key, ..)| given.get(key).is_some())?;
    Some((measure, flag))
}

/// The budget, if a target is given.
pub(super) fn budget(given: &Given<'_>) -> Result<Option<Budget>> {
    let Some((measure, _)) = target(given) else {
        return Ok(None);
    };
    let target = match given.parse("target_macs")? {
        Some(target) => target,
        None => match given.parse("target_params")? {
            Some(target) => target,
            None => return Ok(None),
        },
    };
    let mut budget = Budget::new(measure, target);
    given.set("min_keep", &mut budget.min_keep)?;
    given.set("round_to", &mut budget.round_to)?;
    match budget.validate() {
        // The flags are the fields' names.
        Err(BudgetError::Setting { field, message }) => Err(Error::setting(
            format!("--{}", field.replace('_', "-")),
            message,
        )),
        other => Ok(other.map(|()| Some(budget))?),
    }
}

/// Refuses flags that mean nothing without a target, and with rates or without.
fn refuse_without_target(given: &Given<'_>) -> Result<()> {
    let rates = given.get("rates").is_some();
    let beside = if rates { ", got --rates" } else { "" };
    for key in ["min_keep", "allocation"] {
        if let Some(typed) = given.get(key) {
            let message = format!("expected --target-macs or --target-params beside it{beside}");
            return Err(Error::setting(&typed.flag, message));
        }
    }
    if let Some(typed) = given.get("round_to") {
        if !rates {
            let message = "expected --rates, --target-macs or --target-params beside it";
            return Err(Error::setting(&typed.flag, message));
        }
        if given.parse::<usize>("round_to")? == Some(0) {
            return Err(Error::setting(&typed.flag, "expected at least 1, got 0"));
        }
    }
    Ok(())
}
