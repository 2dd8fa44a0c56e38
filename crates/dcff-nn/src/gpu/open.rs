//! Which GPU a candle device is, and what is asked of it as a whole.

use candle_core::{Device, Result, bail};

#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(feature = "emulator")]
use super::emulator;
use super::handle::Gpu;
use super::settings::DeviceSettings;
use crate::cpu::Isa;

impl Gpu {
    /// The GPU behind `device`; `None` where the processor computes.
    ///
    /// # Errors
    ///
    /// A device without kernels, or a GPU that does not work.
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
}

/// Sets how `device` computes from now on.
///
/// # Errors
///
/// TF32 on the CPU, which does not have it.
pub fn configure(device: &Device, settings: DeviceSettings) -> Result<()> {
    match Gpu::of(device)? {
        Some(gpu) => gpu.configure(settings),
        None if settings.tf32 => bail!("expected a GPU for tf32: the cpu has f32 and bf16"),
        None => Ok(()),
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
        Some(gpu) => gpu.launched(),
        None => 0,
    })
}

/// What `device` is called: `cpu` and the instruction set that its numbers come from, or the GPU's number and name.
///
/// # Errors
///
/// A device without kernels.
pub fn device_name(device: &Device) -> Result<String> {
    Ok(match Gpu::of(device)? {
        Some(gpu) => gpu.machine().name(),
        None => format!("cpu ({})", Isa::current()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_no_tf32() {
        let settings = |tf32| DeviceSettings {
            tf32,
            deterministic: true,
        };
        configure(&Device::Cpu, settings(false)).unwrap();
        let message = configure(&Device::Cpu, settings(true)).unwrap_err();
        assert!(
            message.to_string().contains("expected a GPU for tf32"),
            "{message}"
        );
    }
}
