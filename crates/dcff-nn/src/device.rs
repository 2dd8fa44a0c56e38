//! Which device a user means.

use candle_core::{Device, Result};

use crate::args::first_line;

/// A device by the name users type: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that works, or the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device, and says why where `auto` fell back to the CPU.
    ///
    /// # Errors
    ///
    /// A GPU that was named and cannot be used.
    pub fn open(self) -> Result<(Device, Option<String>)> {
        match self {
            Self::Cpu => Ok((Device::Cpu, None)),
            Self::Cuda(number) => match open(number) {
                Ok(device) => Ok((device, None)),
                Err(error) => Err(candle_core::Error::Msg(format!(
                    "cuda:{number}: {}",
                    first_line(&error)
                ))),
            },
            Self::Auto if !cfg!(feature = "cuda") => Ok((Device::Cpu, None)),
            Self::Auto => Ok(match open(0) {
                Ok(device) => (device, None),
                Err(error) => (Device::Cpu, Some(first_line(&error))),
            }),
        }
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        let unknown = || format!("expected auto, cpu, cuda or cuda:N, got '{name}'");
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match name.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => Ok(Self::Cuda(number)),
                _ => Err(unknown()),
            },
        }
    }
}

#[cfg(feature = "cuda")]
fn open(number: usize) -> Result<Device> {
    crate::gpu::open_cuda(number)
}

#[cfg(not(feature = "cuda"))]
fn open(_: usize) -> Result<Device> {
    candle_core::bail!("this program was built without the feature cuda")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_that_users_type() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            let message = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(message.ends_with(&format!("got '{wrong}'")), "{message}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn says_that_it_was_built_without_gpus() {
        assert!(matches!(DeviceChoice::Auto.open(), Ok((Device::Cpu, None))));
        let message = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert_eq!(
            message,
            "cuda:1: this program was built without the feature cuda"
        );
    }
}
