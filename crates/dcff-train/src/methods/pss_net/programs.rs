//! Programs of subnets: compiled once for those that come again soon.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcff_models::{Program, Weights};

use super::space::{Space, Subnet};
use crate::error::Result;

/// Programs that are kept; one takes some tens of kilobytes.
const MOST: usize = 256;

/// The programs that were used last.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// With the number of their last use.
    kept: BTreeMap<Subnet, (u64, Arc<Program>)>,
    uses: u64,
}

impl Programs {
    /// The program of `subnet` over `weights`.
    pub(super) fn of(
        &mut self,
        subnet: &Subnet,
        space: &Space,
        weights: &Weights,
    ) -> Result<Arc<Program>> {
        self.uses += 1;
        if let Some((used, program)) = self.kept.get_mut(subnet) {
            *used = self.uses;
            return Ok(Arc::clone(program));
        }
        if self.kept.len() >= MOST {
            let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(subnet, _)| subnet.clone()) {
                self.kept.remove(&oldest);
            }
        }
        let program = Arc::new(Program::new(&space.architecture(subnet)?, weights)?);
        let kept = (self.uses, Arc::clone(&program));
        self.kept.insert(subnet.clone(), kept);
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use dcff_models::Network;

    use super::*;

    #[test]
    fn the_longest_unused_program_goes() {
        let full = dcff_models::by_name("resnet20").unwrap();
        let space = Space::new(&full, 0.1, 1, 16, 4).unwrap();
        let network = Network::new(&full, &full, 0, &Device::Cpu).unwrap();
        let mut programs = Programs::default();
        let whole = space.subnet(&space.largest());
        // As many different ones as there is room for, and one more.
        let subnets: Vec<Subnet> = (0..=MOST)
            .map(|i| {
                let mut subnet = whole.clone();
                let narrow = subnet.widths.len();
                subnet.widths[narrow - 1] -= i % 32;
                subnet.widths[narrow - 3] -= i / 32;
                subnet
            })
            .collect();
        let first = programs.of(&subnets[0], &space, network.weights()).unwrap();
        for subnet in &subnets[1..MOST] {
            programs.of(subnet, &space, network.weights()).unwrap();
        }
        let again = programs.of(&subnets[0], &space, network.weights()).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        programs
            .of(&subnets[MOST], &space, network.weights())
            .unwrap();
        assert_eq!(programs.kept.len(), MOST);
        assert!(programs.kept.contains_key(&subnets[0]));
        assert!(!programs.kept.contains_key(&subnets[1]));
    }
}
