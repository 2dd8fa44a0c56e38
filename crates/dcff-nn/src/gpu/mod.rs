//! The layers on graphics cards: the same operations by kernels of our own, compiled when the program runs.
//!
//! Maps lie channels-last, `[N, H, W, C]`, in single precision or in bfloat16, in memory that waits between steps to
//! be used again. Parameters, statistics, gradients of parameters and the loss are candle tensors in single precision.
//!
//! The kernels' text (`kernels/*.cu`) is one for cards and for tests: the feature `cuda` compiles it for the card
//! through NVRTC, the feature `emulator` with a C++ compiler for the processor. What runs kernels is a [`Machine`];
//! everything else here, sizes of launches included, knows none in particular, so that it can be tested without a
//! card. All launches of a device go to one stream, one after the other.

mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod descent;
mod distances;
#[cfg(feature = "emulator")]
pub mod emulator;
mod filters;
mod kernel;
mod machine;
mod maps;
mod memory;
mod norm;
mod offset;
mod parameters;
mod pool;
mod repeat;
mod settings;
mod train;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::cpu::Isa;
use crate::element::Precision;
use crate::features::Features;
use kernel::{Kernel, Parameters};
use machine::Machine;
use memory::{Block, Pool};

pub(crate) use conv::{conv2d, conv2d_backward};
#[cfg(feature = "cuda")]
pub(crate) use cuda::open as open_cuda;
pub(crate) use descent::{adamax, adamw, sgd};
pub(crate) use distances::filter_distances;
pub(crate) use filters::{FiltersOnCard, prepare_filters};
pub(crate) use maps::{
    Maps, Rule, accumulate, concat, elementwise, shortcut, shortcut_backward, split_channels,
};
pub(crate) use norm::{batch_norm, batch_norm_backward, batch_norm_inference};
pub(crate) use offset::{offset, offset_backward, scatter, scatter_backward};
pub(crate) use pool::{
    Taps, avg_pool2d, avg_pool2d_backward, global_avg_pool, global_avg_pool_backward, max_pool2d,
    max_pool2d_backward,
};
pub use repeat::{RepeatedStep, Step};
pub use settings::{DeviceSettings, configure};
pub use train::{ByteImages, Change};
pub(crate) use train::{
    LossOnCard, blend, cross_entropy, linear, linear_backward, mix, mix_backward,
};

/// Threads of a block, in every launch.
const THREADS: u32 = 256;
/// Tiles of channels that a reduction may have.
const COUNTERS: usize = 4096;
/// Numbers that may change between launches of a recorded step: learning rates and what goes with them.
const CELLS: usize = 64;

/// A card, with its memory, kernels and settings. Clones are the same card.
#[derive(Clone)]
pub(crate) struct Gpu(Arc<Inner>);

struct Inner {
    machine: Box<dyn Machine>,
    pool: Mutex<Pool>,
    settings: Mutex<DeviceSettings>,
    /// Zeros between launches, see `comes_last` in the kernels' text.
    counters: u64,
    /// Where the rates of the next step are, and what they are.
    cells: (u64, Mutex<[Option<f32>; CELLS]>),
    launched: AtomicU64,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.machine.device().location())
    }
}

impl Gpu {
    #[cfg_attr(
        not(any(feature = "cuda", feature = "emulator")),
        expect(dead_code, reason = "there is no machine")
    )]
    fn new(machine: Box<dyn Machine>) -> Result<Self> {
        let bytes = COUNTERS * size_of::<u32>();
        let counters = machine.allocate(bytes)?;
        // SAFETY: that many bytes were just allocated.
        unsafe { machine.zero(counters, bytes) }?;
        let cells = machine.allocate(CELLS * size_of::<f32>())?;
        Ok(Self(Arc::new(Inner {
            machine,
            pool: Mutex::default(),
            settings: Mutex::default(),
            counters,
            cells: (cells, Mutex::new([None; CELLS])),
            launched: AtomicU64::new(0),
        })))
    }

    /// The card behind `device`; `None` where the processor computes.
    ///
    /// # Errors
    ///
    /// A device without kernels, or a card that does not work.
    pub(crate) fn of(device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "emulator")]
            Device::Cpu => Ok(emulator::current()),
            #[cfg(not(feature = "emulator"))]
            Device::Cpu => Ok(None),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::gpu(device).map(Some),
            other => bail!("expected a device with kernels, got {:?}", other.location()),
        }
    }

    /// Candle's name of the card.
    pub(crate) fn device(&self) -> Device {
        self.0.machine.device()
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
    fn block(&self, bytes: usize) -> Result<Block> {
        Block::new(self, bytes)
    }

    /// A tensor of `f32` with arbitrary contents on the card, and where its numbers are.
    fn tensor(&self, dims: &[usize]) -> Result<(Tensor, u64)> {
        self.0.machine.tensor(dims).or_else(|_| {
            // Blocks that wait may be in the way.
            self.release()?;
            let bytes = dims.iter().product::<usize>() * size_of::<f32>();
            let made = self.0.machine.tensor(dims);
            made.map_err(|error| memory::no_room(self, bytes, &error))
        })
    }

    /// As [`Gpu::tensor`], two of `count` numbers each in one piece of memory: taking and giving it back takes time.
    fn two_tensors(&self, count: usize) -> Result<[(Tensor, u64); 2]> {
        let (both, at) = self.tensor(&[2 * count])?;
        let first = (both.narrow(0, 0, count)?, at);
        let second = at + (count * size_of::<f32>()) as u64;
        Ok([first, (both.narrow(0, count, count)?, second)])
    }

    /// Where the numbers of a contiguous tensor are.
    fn address(&self, op: &str, name: &str, t: &Tensor, dtype: DType) -> Result<u64> {
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
        self.0.machine.address(t)
    }

    /// As [`Gpu::address`], for `f32` numbers of the shape `dims`.
    fn numbers(&self, op: &str, name: &str, t: &Tensor, dims: &[usize]) -> Result<u64> {
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
    /// The addresses in `parameters` are of memory of this card, as large as the kernel expects.
    unsafe fn launch<P: Parameters>(
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
            self.0.machine.launch(
                kernel.index,
                precision,
                sizes,
                THREADS,
                parameters.address(),
            )
        }
    }

    fn count_launch(&self) {
        self.0.launched.fetch_add(1, Ordering::Relaxed);
    }

    /// Where `rates` are on the card, in the cells from `first` on, for what is launched from now on.
    fn cells(&self, first: usize, rates: &[f64]) -> Result<u64> {
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
            if memory::is_recording(self) {
                bail!("expected a recorded step to use the rates that it was given, got {rates:?}");
            }
            let bytes: Vec<u8> = rates.iter().flat_map(|rate| rate.to_le_bytes()).collect();
            // SAFETY: all cells are allocated.
            unsafe { self.0.machine.upload(address, &bytes) }?;
            for (known, rate) in known.iter_mut().zip(rates) {
                *known = Some(rate);
            }
        }
        Ok(address)
    }

    /// Blocks for `count` numbers that threads take in strides.
    fn grid(&self, count: usize) -> [usize; 3] {
        let most = 16 * self.0.machine.processors();
        [count.div_ceil(THREADS as usize).clamp(1, most), 1, 1]
    }

    /// Gives memory that waits back to the card.
    pub(crate) fn release(&self) -> Result<()> {
        memory::release(self)
    }

    /// Waits until everything launched is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.0.machine.synchronize()
    }
}

/// A size as the kernels take it.
fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!(
            "expected maps of at most {} numbers a side, got {size}",
            i32::MAX
        ),
    }
}

/// Dimensions as the kernels take them.
fn ints<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        *out = int(size)?;
    }
    Ok(out)
}

/// Bytes of a number.
fn bytes(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// The maps of `x`, which must be on `gpu`.
fn take(gpu: &Gpu, op: &str, x: &Features) -> Result<Maps> {
    match x.gpu() {
        Some(maps) => Ok(maps.clone()),
        None => bail!(
            "{op}: expected all maps on {:?}, got some on the cpu",
            gpu.device().location()
        ),
    }
}

/// Waits until everything that was launched on `device` is done; at once on the CPU.
///
/// # Errors
///
/// Those of what was launched.
pub fn synchronize(device: &Device) -> Result<()> {
    match Gpu::of(device)? {
        Some(gpu) => gpu.synchronize(),
        None => Ok(()),
    }
}

/// Kernels and convolutions of cuDNN that were launched on `device` since it was opened, without candle's own kernels;
/// 0 on the CPU.
///
/// # Errors
///
/// A device without kernels.
pub fn launches(device: &Device) -> Result<u64> {
    Ok(match Gpu::of(device)? {
        Some(gpu) => gpu.0.launched.load(Ordering::Relaxed),
        None => 0,
    })
}

/// What `device` is called: `cpu` and the instruction set that its numbers come from, or the card's number and name.
///
/// # Errors
///
/// A device without kernels.
pub fn device_name(device: &Device) -> Result<String> {
    Ok(match Gpu::of(device)? {
        Some(gpu) => gpu.0.machine.name(),
        None => format!("cpu ({})", Isa::current()),
    })
}
