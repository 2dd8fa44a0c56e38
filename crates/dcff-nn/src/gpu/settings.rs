//! How a device computes.

use std::sync::PoisonError;

use candle_core::{Device, Result, bail};

use super::Gpu;

/// How a device computes; see [`configure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Whether cuDNN may multiply in TensorFloat-32 where maps are `f32`.
    pub tf32: bool,
    /// Whether the same inputs give the same bits every time, at some cost in speed. Our own kernels always do;
    /// cuDNN is held to algorithms that do. The CPU always does.
    pub deterministic: bool,
}

/// Sets how `device` computes from now on.
///
/// # Errors
///
/// TF32 on the CPU, which does not have it.
pub fn configure(device: &Device, settings: DeviceSettings) -> Result<()> {
    match Gpu::of(device)? {
        Some(gpu) if settings.tf32 && !gpu.0.machine.has_tf32() => bail!(
            "expected a program built with the feature cudnn for tf32: our own kernels multiply in f32"
        ),
        Some(gpu) => {
            *gpu.0
                .settings
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = settings;
            Ok(())
        }
        None if settings.tf32 => bail!("expected a card for tf32: the cpu has f32 and bf16"),
        None => Ok(()),
    }
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
            message.to_string().contains("expected a card for tf32"),
            "{message}"
        );
    }
}
