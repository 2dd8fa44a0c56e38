//! What kernels run on.

use std::any::Any;
use std::ffi::c_void;

use candle_core::{Device, Result, Tensor};

use crate::element::Precision;

/// Launches that were recorded, on a machine that the holder keeps.
pub(crate) trait Recorded: Send + Sync {
    /// Runs them all, in order.
    ///
    /// # Safety
    ///
    /// All memory that they use is still there.
    unsafe fn launch(&self) -> Result<()>;

    /// How many they are, with candle's own and the taking and giving of memory.
    fn len(&self) -> usize;
}

/// Memory and kernels of one GPU, all on one stream: what is asked for happens in order.
pub(crate) trait Machine: Send + Sync {
    /// Candle's device.
    fn device(&self) -> Device;

    /// What people call the GPU.
    fn name(&self) -> String;

    /// Multiprocessors: launches are sized by them.
    fn processors(&self) -> usize;

    /// Bytes free and in all, where they can be known.
    fn memory(&self) -> Option<(usize, usize)>;

    /// The address of new memory with arbitrary contents, aligned to 256 bytes.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives memory back.
    ///
    /// # Safety
    ///
    /// `address` came from [`Machine::allocate`], and nothing that was launched uses it any more.
    unsafe fn free(&self, address: u64);

    /// Fills memory with zeros.
    ///
    /// # Safety
    ///
    /// That much memory was allocated.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;

    /// Copies to the GPU; `from` may be changed as soon as this returns.
    ///
    /// # Safety
    ///
    /// That much memory was allocated.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies from the GPU, after everything that was launched.
    ///
    /// # Safety
    ///
    /// That much memory was allocated and written.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Copies on the GPU.
    ///
    /// # Safety
    ///
    /// That much memory was allocated at both places.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Runs the kernel at `index` of [`super::kernel::NAMES`].
    ///
    /// # Safety
    ///
    /// `parameters` is the structure that the kernel takes, and its addresses are sound.
    unsafe fn launch(
        &self,
        index: usize,
        precision: Precision,
        grid: [u32; 3],
        threads: u32,
        parameters: *const c_void,
    ) -> Result<()>;

    /// A new `f32` tensor with arbitrary contents, and where its numbers are.
    fn tensor(&self, dims: &[usize]) -> Result<(Tensor, u64)>;

    /// Where the numbers of a contiguous tensor of this device are.
    fn address(&self, t: &Tensor) -> Result<u64>;

    /// Waits until everything launched is done.
    fn synchronize(&self) -> Result<()>;

    /// Until what comes back is dropped, what this thread launches can be recorded afterwards: candle then keeps the
    /// little it copies to the GPU for its own kernels. `None` where nothing can be recorded.
    fn rehearse(&self) -> Option<Box<dyn Any>>;

    /// From now on what is launched is recorded instead of run, until [`Machine::end_recording`].
    fn begin_recording(&self) -> Result<()>;

    /// What was launched since [`Machine::begin_recording`].
    fn end_recording(&self) -> Result<Box<dyn Recorded>>;

    /// Whether convolutions may multiply in TensorFloat-32.
    fn has_tf32(&self) -> bool {
        #[cfg(feature = "cudnn")]
        return self.cudnn().is_some();
        #[cfg(not(feature = "cudnn"))]
        false
    }

    /// cuDNN (`cuda::cudnn::Cudnn`), where convolutions are to go through it.
    #[cfg(feature = "cudnn")]
    fn cudnn(&self) -> Option<&dyn Any>;
}
