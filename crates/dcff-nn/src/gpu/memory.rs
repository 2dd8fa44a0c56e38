//! Memory on the GPU: blocks that are let go wait to be used again.
//!
//! A training step asks for the same sizes in the same order as the step before, so blocks are kept by their size. As
//! all work goes to one stream, a block may be handed out while kernels that were launched before still read it.
//! Launches that are recorded keep the blocks they use to themselves, see [`Reserved`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Result;

use super::machine::Machine;
use crate::args::first_line;

/// Sizes are rounded up to this many bytes.
const GRAIN: usize = 512;

/// Addresses by their blocks' bytes.
type Waiting = HashMap<usize, Vec<u64>>;

/// Addresses that wait.
#[derive(Default)]
struct Pool {
    waiting: Waiting,
    /// Those handed out since a recording began: it writes to them whenever it is launched.
    recording: Option<HashSet<u64>>,
}

/// The memory of one GPU, and the machine that it belongs to.
pub(crate) struct Memory {
    machine: Box<dyn Machine>,
    pool: Mutex<Pool>,
}

impl Memory {
    /// Nothing waits yet.
    pub(super) fn new(machine: Box<dyn Machine>) -> Self {
        Self {
            machine,
            pool: Mutex::default(),
        }
    }

    pub(super) fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is launched is recorded.
    pub(super) fn is_recording(&self) -> bool {
        self.pool().recording.is_some()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        if let Ok(address) = self.machine.allocate(bytes) {
            return Ok(address);
        }
        self.release()?;
        let allocated = self.machine.allocate(bytes);
        allocated.map_err(|error| self.no_room(bytes, &error))
    }

    /// What is said where the GPU has no more memory.
    pub(super) fn no_room(
        &self,
        bytes: usize,
        error: &dyn std::fmt::Display,
    ) -> candle_core::Error {
        let error = first_line(error);
        candle_core::Error::Msg(match self.machine.memory() {
            None => error,
            Some((free, total)) => format!(
                "the GPU has no {} MiB left: {} of {} MiB are free ({error}); lower the batch size, or choose --precision bf16",
                bytes.div_ceil(1 << 20),
                free >> 20,
                total >> 20
            ),
        })
    }

    /// Gives all blocks that wait back to the GPU.
    pub(super) fn release(&self) -> Result<()> {
        let waiting = std::mem::take(&mut self.pool().waiting);
        self.machine.synchronize()?;
        for address in waiting.into_values().flatten() {
            // SAFETY: nobody holds it, and everything that used it is done.
            unsafe { self.machine.free(address) };
        }
        Ok(())
    }
}

/// Memory on a GPU.
pub(crate) struct Block {
    memory: Arc<Memory>,
    address: u64,
    bytes: usize,
}

impl Block {
    pub(crate) fn new(memory: &Arc<Memory>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let found = memory.pool().waiting.get_mut(&bytes).and_then(Vec::pop);
        let address = match found {
            Some(address) => address,
            None => memory.allocate(bytes)?,
        };
        if let Some(used) = &mut memory.pool().recording {
            used.insert(address);
        }
        Ok(Self {
            memory: Arc::clone(memory),
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
        let mut pool = self.memory.pool();
        pool.waiting
            .entry(self.bytes)
            .or_default()
            .push(self.address);
    }
}

/// Blocks that a recording uses; nobody else gets them until it is dropped.
pub(crate) struct Reserved {
    memory: Arc<Memory>,
    blocks: Waiting,
}

impl Reserved {
    /// All of them together.
    pub(crate) fn bytes(&self) -> usize {
        let sizes = self.blocks.iter();
        sizes.map(|(bytes, all)| bytes * all.len()).sum()
    }

    /// From now on notes which blocks are used.
    pub(crate) fn begin(memory: &Memory) {
        memory.pool().recording = Some(HashSet::new());
    }

    /// Takes those that were used since [`Reserved::begin`] and wait. One that is still held must be held on to.
    pub(crate) fn end(memory: &Arc<Memory>) -> Self {
        let mut pool = memory.pool();
        let used = pool.recording.take().unwrap_or_default();
        let mut blocks = Waiting::new();
        for (&bytes, addresses) in &mut pool.waiting {
            let taken = addresses.extract_if(.., |address| used.contains(address));
            blocks.insert(bytes, taken.collect());
        }
        Self {
            memory: Arc::clone(memory),
            blocks,
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut pool = self.memory.pool();
        for (bytes, addresses) in self.blocks.drain() {
            pool.waiting.entry(bytes).or_default().extend(addresses);
        }
    }
}
