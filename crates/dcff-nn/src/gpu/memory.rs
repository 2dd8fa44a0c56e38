//! Memory on the card: blocks that are let go wait to be used again.
//!
//! A training step asks for the same sizes in the same order as the step before, so blocks are kept by their size. As
//! all work goes to one stream, a block may be handed out while kernels that were launched before still read it.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use candle_core::{Result, bail};

use super::Gpu;

/// Sizes are rounded up to this many bytes.
const GRAIN: usize = 512;

/// Addresses that wait, by bytes.
#[derive(Default)]
pub(crate) struct Pool {
    waiting: HashMap<usize, Vec<u64>>,
}

/// Memory on a card.
pub(crate) struct Block {
    gpu: Gpu,
    address: u64,
    bytes: usize,
}

impl Block {
    pub(crate) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let found = pool(gpu).waiting.get_mut(&bytes).and_then(Vec::pop);
        let address = match found {
            Some(address) => address,
            None => allocate(gpu, bytes)?,
        };
        Ok(Self {
            gpu: gpu.clone(),
            address,
            bytes,
        })
    }

    /// Where it starts.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut pool = pool(&self.gpu);
        pool.waiting
            .entry(self.bytes)
            .or_default()
            .push(self.address);
    }
}

fn pool(gpu: &Gpu) -> MutexGuard<'_, Pool> {
    gpu.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn allocate(gpu: &Gpu, bytes: usize) -> Result<u64> {
    let machine = &gpu.0.machine;
    if let Ok(address) = machine.allocate(bytes) {
        return Ok(address);
    }
    release(gpu)?;
    match (machine.allocate(bytes), machine.memory()) {
        (Ok(address), _) => Ok(address),
        (Err(error), None) => Err(error),
        (Err(error), Some((free, total))) => bail!(
            "the card has no {} MiB left: {} of {} MiB are free ({error}); lower the batch size, or choose --precision bf16",
            bytes.div_ceil(1 << 20),
            free >> 20,
            total >> 20
        ),
    }
}

/// Gives all blocks that wait back to the card.
pub(crate) fn release(gpu: &Gpu) -> Result<()> {
    let waiting = std::mem::take(&mut pool(gpu).waiting);
    gpu.synchronize()?;
    for address in waiting.into_values().flatten() {
        // SAFETY: nobody holds it, and everything that used it is done.
        unsafe { gpu.0.machine.free(address) };
    }
    Ok(())
}
