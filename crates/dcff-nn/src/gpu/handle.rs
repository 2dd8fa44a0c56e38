//! A GPU: its kernels are launched here, in memory that is asked for here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::kernel::{self, Kernel};
use super::machine::Machine;
use super::memory::{Block, Memory};
use super::parameters::Parameters;
use super::settings::DeviceSettings;
use crate::element::Precision;

/// Threads of a block, in every launch.
pub(super) const THREADS: u32 = 256;
/// Tiles of channels that a reduction may have.
pub(super) const COUNTERS: usize = 4096;
/// Numbers that may change between launches of a recorded step: learning rates and what goes with them.
const CELLS: usize = 64;

/// A GPU, with its memory, kernels and settings. Clones are the same GPU.
#[derive(Clone)]
pub(crate) struct Gpu(Arc<Inner>);

struct Inner {
    memory: Arc<Memory>,
    settings: Mutex<DeviceSettings>,
    /// Zeros between launches, see `comes_last` in the kernels' text.
    counters: u64,
    /// Where the rates of the next step are, and what they are.
    cells: (u64, Mutex<[Option<f32>; CELLS]>),
    launched: AtomicU64,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.machine().device().location())
    }
}

impl Gpu {
    #[cfg_attr(
        not(any(feature = "cuda", feature = "emulator")),
        expect(dead_code, reason = "there is no machine")
    )]
    pub(super) fn new(machine: Box<dyn Machine>) -> Result<Self> {
        let bytes = COUNTERS * size_of::<u32>();
        let counters = machine.allocate(bytes)?;
        // SAFETY: that many bytes were just allocated.
        unsafe { machine.zero(counters, bytes) }?;
        let cells = machine.allocate(CELLS * size_of::<f32>())?;
        Ok(Self(Arc::new(Inner {
            memory: Arc::new(Memory::new(machine)),
            settings: Mutex::default(),
            counters,
            cells: (cells, Mutex::new([None; CELLS])),
            launched: AtomicU64::new(0),
        })))
    }

    /// What runs its kernels.
    pub(crate) fn machine(&self) -> &dyn Machine {
        self.0.memory.machine()
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0.memory
    }

    /// Where the counters of reductions are: zeros between launches.
    pub(super) fn counters(&self) -> u64 {
        self.0.counters
    }

    /// How much was launched so far.
    pub(super) fn launched(&self) -> u64 {
        self.0.launched.load(Ordering::Relaxed)
    }

    /// Sets how it computes.
    ///
    /// # Errors
    ///
    /// TF32 where nothing here has it.
    pub(super) fn configure(&self, settings: DeviceSettings) -> Result<()> {
        if settings.tf32 && !self.machine().has_tf32() {
            bail!(
                "expected a program built with the feature cudnn for tf32: our own kernels multiply in f32"
            );
        }
        let held = self.0.settings.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(())
    }

    /// Candle's name of the GPU.
    pub(crate) fn device(&self) -> Device {
        self.machine().device()
    }

    #[cfg_attr(
        not(feature = "cudnn"),
        expect(dead_code, reason = "our own kernels have no choice")
    )]
    pub(crate) fn settings(&self) -> DeviceSettings {
        *self
            .0
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory with arbitrary contents.
    pub(super) fn block(&self, bytes: usize) -> Result<Block> {
        Block::new(&self.0.memory, bytes)
    }

    /// A tensor of `f32` with arbitrary contents on the GPU, and where its numbers are.
    pub(super) fn tensor(&self, dims: &[usize]) -> Result<(Tensor, u64)> {
        self.machine().tensor(dims).or_else(|_| {
            // Blocks that wait may be in the way.
            self.release()?;
            let bytes = dims.iter().product::<usize>() * size_of::<f32>();
            let made = self.machine().tensor(dims);
            made.map_err(|error| self.0.memory.no_room(bytes, &error))
        })
    }

    /// As [`Gpu::tensor`], two of `count` numbers each in one piece of memory: taking and giving it back takes time.
    pub(super) fn two_tensors(&self, count: usize) -> Result<[(Tensor, u64); 2]> {
        let (both, at) = self.tensor(&[2 * count])?;
        let first = (both.narrow(0, 0, count)?, at);
        let second = at + (count * size_of::<f32>()) as u64;
        Ok([first, (both.narrow(0, count, count)?, second)])
    }

    /// Where the numbers of a contiguous tensor are.
    pub(crate) fn address(&self, op: &str, name: &str, t: &Tensor, dtype: DType) -> Result<u64> {
        if t.dtype() != dtype {
            bail!(
                "{op}: expected {name} of type {}, got {}",
                dtype.as_str(),
                t.dtype().as_str()
            );
        }
        if !t.is_contiguous() {
            bail!("{op}: expected {name} to be contiguous");
        }
        if !t.device().same_device(&self.device()) {
            bail!(
                "{op}: expected {name} on {:?}, got {:?}",
                self.device().location(),
                t.device().location()
            );
        }
        self.machine().address(t)
    }

    /// As [`Gpu::address`], for `f32` numbers of the shape `dims`.
    pub(super) fn numbers(&self, op: &str, name: &str, t: &Tensor, dims: &[usize]) -> Result<u64> {
        if t.dims() != dims {
            bail!(
                "{op}: expected {name} of shape {dims:?}, got {:?}",
                t.dims()
            );
        }
        self.address(op, name, t, DType::F32)
    }

    /// Runs `kernel` on `grid` blocks.
    ///
    /// # Safety
    ///
    /// The addresses in `parameters` are of memory of this GPU, as large as the kernel expects.
    pub(super) unsafe fn launch<P: Parameters>(
        &self,
        kernel: Kernel<P>,
        precision: Precision,
        grid: [usize; 3],
        parameters: &P,
    ) -> Result<()> {
        let sizes = grid.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        if sizes[0] > i32::MAX as u32 || sizes[1] > 65_535 || sizes[2] > 65_535 {
            bail!(
                "{}: expected maps that fit a launch, got {grid:?} blocks",
                kernel::NAMES[kernel.index]
            );
        }
        self.count_launch();
        // SAFETY: the caller's.
        unsafe {
            self.machine().launch(
                kernel.index,
                precision,
                sizes,
                THREADS,
                parameters.address(),
            )
        }
    }

    pub(crate) fn count_launch(&self) {
        self.0.launched.fetch_add(1, Ordering::Relaxed);
    }

    /// Where `rates` are on the GPU, in the cells from `first` on, for what is launched from now on.
    pub(crate) fn cells(&self, first: usize, rates: &[f64]) -> Result<u64> {
        let (address, known) = &self.0.cells;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let end = first.saturating_add(rates.len());
        let Some(known) = known.get_mut(first..end) else {
            bail!("expected rates in cells below {CELLS}, got {first} to {end}");
        };
        let address = address + (first * size_of::<f32>()) as u64;
        let rates: Vec<f32> = rates.iter().map(|&rate| rate as f32).collect();
        let same =
            |(known, rate): (&Option<f32>, &f32)| known.map(f32::to_bits) == Some(rate.to_bits());
        if !known.iter().zip(&rates).all(same) {
            if self.0.memory.is_recording() {
                bail!("expected a recorded step to use the rates that it was given, got {rates:?}");
            }
            let bytes: Vec<u8> = rates.iter().flat_map(|rate| rate.to_le_bytes()).collect();
            // SAFETY: all cells are allocated.
            unsafe { self.machine().upload(address, &bytes) }?;
            for (known, rate) in known.iter_mut().zip(rates) {
                *known = Some(rate);
            }
        }
        Ok(address)
    }

    /// Blocks for `count` numbers that threads take in strides.
    pub(super) fn grid(&self, count: usize) -> [usize; 3] {
        let most = 16 * self.machine().processors();
        [count.div_ceil(THREADS as usize).clamp(1, most), 1, 1]
    }

    /// Gives memory that waits back to the GPU.
    pub(crate) fn release(&self) -> Result<()> {
        self.0.memory.release()
    }

    /// Waits until everything launched is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.machine().synchronize()
    }
}
