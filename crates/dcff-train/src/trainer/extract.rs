//! Networks cut out of the trained one.

use std::collections::BTreeMap;

use dcff_compact::{Artefact, Bundle, Slice};
use dcff_models::Network;
use serde_json::json;

use super::Trainer;
use crate::error::{Error, Result};
use crate::places::forget_places;

/// A network cut out of the trained one, with statistics of its own.
#[derive(Debug)]
pub struct Extracted {
    /// As it is written.
    pub artefact: Artefact,
    /// Training images over which its statistics were measured.
    pub images: usize,
}

impl Trainer {
    /// The slices that the method knows; [`Method::slices`](crate::Method::slices).
    ///
    /// # Errors
    /// When it trains none.
    pub fn slices(&self) -> Result<Vec<Slice>> {
        let slices = self.method.slices()?;
        match slices.is_empty() {
            true => Err(Error::file(
                self.folder.path(),
                format!(
                    "expected a run of a method that trains slices, got one of --method {}",
                    self.config.method.name
                ),
            )),
            false => Ok(slices),
        }
    }

    /// The slice that `config` asks for; [`Method::slice`](crate::Method::slice).
    ///
    /// # Errors
    /// When the method trains no slices, or none such.
    pub fn slice(&self, config: &str) -> Result<Slice> {
        self.slices()?;
        self.method.slice(config)
    }

    /// The slice as a network of its own, its statistics measured over `batches` training batches; those of the run's method unless
    /// given.
    ///
    /// # Errors
    /// Those of reading batches and of the device.
    pub fn extract(&self, slice: &Slice, batches: Option<usize>) -> Result<Extracted> {
        let (network, images) = self.measured(slice, batches)?;
        let value = serde_json::to_value(slice);
        let value = value.map_err(|error| Error::setting("slice", error.to_string()))?;
        let provenance = self.origin(images, [("slice", value)])?;
        Ok(Extracted {
            artefact: self.artefact(&network, provenance)?,
            images,
        })
    }

    /// The whole network and its slices: of each target the best, the smallest and the whole one. Also the number of training images
    /// over which the statistics of each were measured.
    ///
    /// # Errors
    /// As [`Trainer::extract`], and when the method trains no slices.
    pub fn bundle(&self, batches: Option<usize>) -> Result<(Bundle, usize)> {
        let mut best: BTreeMap<u64, Slice> = BTreeMap::new();
        for slice in self.slices()? {
            let known = best.get(&slice.target).and_then(|known| known.score);
            if best.contains_key(&slice.target) && slice.score <= known {
                continue;
            }
            best.insert(slice.target, slice);
        }
        let slices = best.into_values().map(|slice| {
            let (network, _) = self.measured(&slice, batches)?;
            Ok((slice, network))
        });
        let slices: Vec<_> = slices.collect::<Result<_>>()?;
        let mut whole = self.network.collapse(&self.evaluation_views()?)?;
        let images = self.recalibrate(&mut whole, self.batches(batches))?;
        let whole = self.artefact(&whole, self.origin(images, [])?)?;
        Ok((Bundle::new(whole, slices)?, images))
    }

    /// The batches over which statistics are measured.
    fn batches(&self, given: Option<usize>) -> usize {
        given.or_else(|| self.method.recalibration()).unwrap_or(0)
    }

    fn measured(&self, slice: &Slice, batches: Option<usize>) -> Result<(Network, usize)> {
        let mut network = slice.cut(&self.network)?;
        let images = self.recalibrate(&mut network, self.batches(batches))?;
        Ok((network, images))
    }

    /// What an artefact says of its making.
    fn origin<const N: usize>(
        &self,
        images: usize,
        more: [(&str, serde_json::Value); N],
    ) -> Result<BTreeMap<String, serde_json::Value>> {
        let config = serde_json::to_value(&self.config);
        let config = config.map_err(|error| Error::setting("config", error.to_string()))?;
        let own = [
            ("config", config),
            ("position", json!(self.state.position)),
            ("statistics_images", json!(images)),
        ];
        let all = own.into_iter().chain(more);
        let mut all = all.map(|(key, value)| (key.to_owned(), value)).collect();
        forget_places(&mut all);
        Ok(all)
    }
}
