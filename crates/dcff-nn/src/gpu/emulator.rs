//! A GPU on the processor, for tests: the kernels' text is compiled by a C++ compiler and run thread by thread.
//!
//! While [`with`] runs, tensors on [`Device::Cpu`] count as tensors of the emulated GPU on the calling thread. It is
//! slow, and stricter than a GPU in one respect: the order of threads turns round from launch to launch, so a
//! missing barrier shows.

use std::alloc::{Layout, alloc, dealloc};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};

use super::handle::Gpu;
use super::kernel::{NAMES, source};
use super::machine::{Machine, Recorded};
use super::settings::DeviceSettings;
use crate::element::Precision;

const HOST: &str = include_str!("kernels/host.cuh");
/// Few, so that small maps already make threads take several numbers.
const PROCESSORS: usize = 2;

thread_local! {
    static CURRENT: RefCell<Option<Gpu>> = const { RefCell::new(None) };
}

pub(super) fn current() -> Option<Gpu> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `f` with an emulated GPU of these settings in place of the CPU, on this thread.
///
/// # Errors
///
/// A message when the kernels could not be compiled, for want of a C++ compiler for example.
pub fn with<R>(settings: DeviceSettings, f: impl FnOnce() -> R) -> Result<R> {
    /// Takes the GPU away again, also when `f` panics.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }

    let kernels = [load(Precision::F32)?, load(Precision::Bf16)?];
    let machine = Emulator {
        kernels,
        blocks: Mutex::default(),
        launches: AtomicU32::new(0),
    };
    let gpu = Gpu::new(Box::new(machine))?;
    gpu.configure(settings)?;
    CURRENT.set(Some(gpu));
    let _reset = Reset;
    Ok(f())
}

type Launch = unsafe extern "C" fn(*const c_void, *const c_uint, c_uint, c_int);

#[link(name = "dl")]
unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Compiles and loads the kernels for maps of `precision`, once in a process.
fn load(precision: Precision) -> Result<&'static [Launch]> {
    static F32: OnceLock<std::result::Result<Vec<Launch>, String>> = OnceLock::new();
    static BF16: OnceLock<std::result::Result<Vec<Launch>, String>> = OnceLock::new();
    let once = match precision {
        Precision::F32 => &F32,
        Precision::Bf16 => &BF16,
    };
    match once.get_or_init(|| compile(precision)) {
        Ok(kernels) => Ok(kernels),
        Err(message) => bail!("emulator: {message}"),
    }
}

fn compile(precision: Precision) -> std::result::Result<Vec<Launch>, String> {
    let folder =
        std::env::temp_dir().join(format!("dcff-emulator-{}-{precision}", std::process::id()));
    let built = build(&folder, precision);
    // A loaded library outlives its file.
    let _ = std::fs::remove_dir_all(&folder);
    built
}

fn build(folder: &PathBuf, precision: Precision) -> std::result::Result<Vec<Launch>, String> {
    let message = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(message)?;
    let (text, library) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    std::fs::write(&text, source(precision, HOST)).map_err(message)?;
    let output = Command::new("c++")
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off"])
        .args(["-Wno-unknown-pragmas", "-o"])
        .arg(&library)
        .arg(&text)
        .output()
        .map_err(|error| format!("c++: {error}"))?;
    if !output.status.success() {
        return Err(format!("c++: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let path = CString::new(library.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    /// Resolve everything at once.
    const NOW: c_int = 2;
    // SAFETY: the library was just built and does nothing when it is loaded.
    let handle = unsafe { dlopen(path.as_ptr(), NOW) };
    if handle.is_null() {
        return Err(format!("{} could not be loaded", library.display()));
    }
    NAMES
        .iter()
        .map(|name| {
            let symbol = CString::new(*name).map_err(|error| error.to_string())?;
            // SAFETY: the handle is of a library that stays loaded.
            let address = unsafe { dlsym(handle, symbol.as_ptr()) };
            if address.is_null() {
                return Err(format!("{name} is missing"));
            }
            // SAFETY: every kernel has this signature, see `HOST_KERNEL`.
            Ok(unsafe { std::mem::transmute::<*mut c_void, Launch>(address) })
        })
        .collect()
}

struct Emulator {
    kernels: [&'static [Launch]; 2],
    blocks: Mutex<HashMap<u64, Layout>>,
    launches: AtomicU32,
}

impl Machine for Emulator {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn name(&self) -> String {
        "emulated GPU".to_owned()
    }

    fn processors(&self) -> usize {
        PROCESSORS
    }

    fn memory(&self) -> Option<(usize, usize)> {
        None
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let layout =
            Layout::from_size_align(bytes.max(1), 256).map_err(candle_core::Error::wrap)?;
        // SAFETY: the layout's size is not zero.
        let address = unsafe { alloc(layout) };
        if address.is_null() {
            bail!("emulator: no {bytes} bytes left");
        }
        // Numbers that nobody wrote are to show: bytes of ones are NaN in both types of maps.
        // SAFETY: that many bytes were just allocated.
        unsafe { std::ptr::write_bytes(address, 0xff, bytes) };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.insert(address as u64, layout);
        Ok(address as u64)
    }

    unsafe fn free(&self, address: u64) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = blocks.remove(&address) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        index: usize,
        precision: Precision,
        grid: [u32; 3],
        threads: u32,
        parameters: *const c_void,
    ) -> Result<()> {
        let turned = self.launches.fetch_add(1, Ordering::Relaxed) % 2;
        let kernel = self.kernels[usize::from(precision == Precision::Bf16)][index];
        // SAFETY: the caller's.
        unsafe { kernel(parameters, grid.as_ptr(), threads, turned as c_int) };
        Ok(())
    }

    fn tensor(&self, dims: &[usize]) -> Result<(Tensor, u64)> {
        let t = Tensor::full(f32::NAN, dims, &Device::Cpu)?.contiguous()?;
        let t = t.copy()?;
        let address = self.address(&t)?;
        Ok((t, address))
    }

    fn address(&self, t: &Tensor) -> Result<u64> {
        let (storage, layout) = t.storage_and_layout();
        let start = layout.start_offset();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => Ok(data[start..].as_ptr() as u64),
            Storage::Cpu(CpuStorage::U32(data)) => Ok(data[start..].as_ptr() as u64),
            _ => bail!("emulator: expected a tensor of type f32 or u32"),
        }
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    // Candle's own operations are done at once here, so there is nothing to record.
    fn rehearse(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn begin_recording(&self) -> Result<()> {
        bail!("emulator: nothing can be recorded")
    }

    fn end_recording(&self) -> Result<Box<dyn Recorded>> {
        bail!("emulator: nothing can be recorded")
    }

    #[cfg(feature = "cudnn")]
    fn cudnn(&self) -> Option<&dyn Any> {
        None
    }
}
