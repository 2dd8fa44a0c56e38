//! A data set that lives on a GPU as bytes: batches are cropped, mirrored and normalised there.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use dcff_data::{Assembler, Loader, Placed};
use dcff_nn::{ByteImages, Change};

use crate::error::Result;

#[derive(Debug)]
struct OnGpu(ByteImages);

impl Assembler for OnGpu {
    fn assemble(&self, images: &[Placed]) -> candle_core::Result<Tensor> {
        let changes: Vec<_> = images
            .iter()
            .map(|image| Change {
                index: image.index,
                down: image.down,
                right: image.right,
                flip: image.flip,
            })
            .collect();
        self.0.batch(&changes)
    }
}

/// How `loader`, and others of its data set and normalisation, make batches on `device`; `None` on the CPU, where a
/// GPU has no room for the data set, and where images stay in their files.
///
/// # Errors
/// When the GPU does not work.
fn assembler(loader: &Loader, device: &Device) -> Result<Option<Arc<dyn Assembler>>> {
    if !loader.can_be_assembled() {
        return Ok(None);
    }
    let dataset = loader.dataset();
    let bytes = ByteImages::new(device, dataset.pixels(), dataset.shape(), loader.tables())?;
    Ok(bytes.map(|bytes| Arc::new(OnGpu(bytes)) as Arc<dyn Assembler>))
}

/// `loader` with its batches made on `device`, and so `other`, which is of the same data set and normalisation.
///
/// # Errors
/// When the GPU does not work.
pub(crate) fn on_device(
    loader: Loader,
    other: Option<Loader>,
    device: &Device,
) -> Result<(Loader, Option<Loader>)> {
    Ok(match assembler(&loader, device)? {
        Some(assembler) => (
            loader.assembled_by(Arc::clone(&assembler)),
            other.map(|other| other.assembled_by(assembler)),
        ),
        None => (loader, other),
    })
}
