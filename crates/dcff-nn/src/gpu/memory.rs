//! Memory on the card: blocks that are let go wait to be used again.
//!
//! A training step asks for the same sizes in the same order as the step before, so blocks are kept by their size. As
//! all work goes to one stream, a block may be handed out while kernels that were launched before still read it.
//! Launches that are recorded keep the blocks they use to themselves, see [`Reserved`].

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use candle_core::Result;

use super::Gpu;
use crate::args::first_line;

/// Sizes are rounded up to this many bytes.
const GRAIN: usize = 512;

/// Addresses by their blocks' bytes.
type Waiting = HashMap<usize, Vec<u64>>;

/// Addresses that wait.
#[derive(Default)]
pub(crate) struct Pool {
    waiting: Waiting,
    /// Those handed out since a recording began: it writes to them whenever it is launched.
    recording: Option<HashSet<u64>>,
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
        if let Some(used) = &mut pool(gpu).recording {
            used.insert(address);
        }
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

/// Whether what is launched is recorded.
pub(crate) fn is_recording(gpu: &Gpu) -> bool {
    pool(gpu).recording.is_some()
}

/// Blocks that a recording uses; nobody else gets them until it is dropped.
pub(crate) struct Reserved {
    gpu: Gpu,
    blocks: Waiting,
}

impl Reserved {
    /// All of them together.
    pub(crate) fn bytes(&self) -> usize {
        let sizes = self.blocks.iter();
        sizes.map(|(bytes, all)| bytes * all.len()).sum()
    }

    /// From now on notes which blocks are used.
    pub(crate) fn begin(gpu: &Gpu) {
        pool(gpu).recording = Some(HashSet::new());
    }

    /// Takes those that were used since [`Reserved::begin`] and wait. One that is still held must be held on to.
    pub(crate) fn end(gpu: &Gpu) -> Self {
        let mut pool = pool(gpu);
        let used = pool.recording.take().unwrap_or_default();
        let mut blocks = Waiting::new();
        for (&bytes, addresses) in &mut pool.waiting {
            let taken = addresses.extract_if(.., |address| used.contains(address));
            blocks.insert(bytes, taken.collect());
        }
        Self {
            gpu: gpu.clone(),
            blocks,
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut pool = pool(&self.gpu);
        for (bytes, addresses) in self.blocks.drain() {
            pool.waiting.entry(bytes).or_default().extend(addresses);
        }
    }
}

fn allocate(gpu: &Gpu, bytes: usize) -> Result<u64> {
    let machine = &gpu.0.machine;
    if let Ok(address) = machine.allocate(bytes) {
        return Ok(address);
    }
    release(gpu)?;
    machine
        .allocate(bytes)
        .map_err(|error| no_room(gpu, bytes, &error))
}

/// What is said where the card has no more memory.
pub(super) fn no_room(
    gpu: &Gpu,
    bytes: usize,
    error: &dyn std::fmt::Display,
) -> candle_core::Error {
    let error = first_line(error);
    candle_core::Error::Msg(match gpu.0.machine.memory() {
        None => error,
        Some((free, total)) => format!(
            "the card has no {} MiB left: {} of {} MiB are free ({error}); lower the batch size, or choose --precision bf16",
            bytes.div_ceil(1 << 20),
            free >> 20,
            total >> 20
        ),
    })
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
