//! What kernels run on.

use std::ffi::c_void;

use candle_core::{Device, Result, Tensor};

use crate::element::Precision;

/// Memory and kernels of one card, all on one stream: what is asked for happens in order.
pub(crate) trait Machine: Send + Sync {
    /// Candle's device.
    fn device(&self) -> Device;

    /// What people call the card.
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

    /// Copies to the card; `from` may be changed as soon as this returns.
    ///
    /// # Safety
    ///
    /// That much memory was allocated.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies from the card, after everything that was launched.
    ///
    /// # Safety
    ///
    /// That much memory was allocated and written.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

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

    /// cuDNN, where convolutions are to go through it.
    #[cfg(feature = "cudnn")]
    fn cudnn(&self) -> Option<&super::cuda::cudnn::Cudnn>;
}
