//! How the command line knows the method.

use dcff_run::MethodConfig;

use super::method::PssNet;
use super::settings::PssNetConfig;
use crate::entry::{Context, Entry, Given};
use crate::error::Result;
use crate::method::Method;

/// PSS-Net.
pub(in crate::methods) struct Entrance;

impl Entry for Entrance {
    fn name(&self) -> &'static str {
        PssNet::NAME
    }

    fn about(&self) -> &'static str {
        "one network and its slices: for every budget the subnets that do best are trained most"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig> {
        let own: Option<PssNetConfig> = given.own(&[PssNet::NAME])?;
        let config = own.unwrap_or_default();
        config.space(given.full)?;
        Ok(MethodConfig::new(PssNet::NAME, config)?)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        Ok(MethodConfig::new(
            PssNet::NAME,
            config.read::<PssNetConfig>()?,
        )?)
    }

    fn build(&self, config: &MethodConfig, _: &Context) -> Result<Box<dyn Method>> {
        Ok(Box::new(PssNet::new(config.read()?)?))
    }
}
