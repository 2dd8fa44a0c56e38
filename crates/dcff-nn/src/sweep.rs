//! One sweep over many tensors at once: what all optimisers share.
//!
//! A parameter, its state and its gradient have one shape. The CPU takes one after the other, in pieces that fit a
//! thread's cache; a GPU takes many in a launch (`gpu/descent.rs`).

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, bail};

use crate::args;
use crate::threads::{self, Out};

/// Numbers that one thread updates at a time; with state and gradient they fit its second-level cache.
const CHUNK: usize = 1 << 15;

/// Fails unless in every row `[parameter, state.., gradient]` all have the parameter's shape and memory of their own; `names` are theirs.
pub(crate) fn check<const K: usize>(
    op: &str,
    names: [&str; K],
    rows: &[[&Tensor; K]],
) -> Result<()> {
    for row in rows {
        for (i, (name, tensor)) in names.into_iter().zip(row).enumerate() {
            args::same(
                op,
                &format!("a {name} of shape"),
                row[0].dims(),
                tensor.dims(),
            )?;
            let shares = row[..i]
                .iter()
                .position(|other| storage(other) == storage(tensor));
            if let Some(other) = shares {
                bail!(
                    "{op}: expected a {name} with memory of its own, got the {}'s",
                    names[other]
                );
            }
        }
    }
    Ok(())
}

/// Where a tensor's storage lives.
fn storage(tensor: &Tensor) -> *const Storage {
    &raw const *tensor.storage_and_layout().0
}

/// Calls `update` with the same stretch of the parameter and its state, to be changed in place, and of the gradient,
/// for every stretch of every row. `names` are those of the tensors, the gradient's last.
pub(crate) fn on_cpu<'a, const N: usize>(
    op: &'static str,
    names: &[&'static str],
    rows: impl Iterator<Item = Row<'a, N>>,
    update: impl Fn([&mut [f32]; N], &[f32]) + Sync,
) -> Result<()> {
    let sweep = |all: [&mut [f32]; N], gradient: &[f32]| {
        let all = all.map(Out::new);
        threads::each(gradient.len().div_ceil(CHUNK), |chunk| {
            let start = chunk * CHUNK;
            let gradient = &gradient[start..gradient.len().min(start + CHUNK)];
            // SAFETY: all are as long as the gradient, and a task changes its own chunk.
            let all = all.map(|all| unsafe {
                std::slice::from_raw_parts_mut(all.at(start), gradient.len())
            });
            update(all, gradient);
        });
    };
    for (changed, gradient) in rows {
        let gradient = gradient.contiguous()?;
        let lend = Lend {
            op,
            names,
            changed: &changed,
            gradient: &gradient,
            held: RefCell::default(),
            then: &sweep,
        };
        lend.next()?;
    }
    Ok(())
}

/// Tensors to be changed, and the gradient.
pub(crate) type Row<'a, const N: usize> = ([&'a Tensor; N], &'a Tensor);

/// What is done with all tensors of a row, those that change and the gradient.
type Then<'a, const N: usize> = dyn Fn([&mut [f32]; N], &[f32]) + 'a;

/// Lends the numbers of several tensors to one function: candle lends one storage at a time, so the last is asked for
/// first, with the others still to come.
struct Lend<'a, 'b, const N: usize> {
    op: &'static str,
    names: &'a [&'static str],
    changed: &'a [&'a Tensor; N],
    gradient: &'a Tensor,
    /// From the last on.
    held: RefCell<Vec<&'b mut [f32]>>,
    then: &'a Then<'a, N>,
}

impl<const N: usize> Lend<'_, '_, N> {
    fn next(&self) -> Result<()> {
        let held = self.held.borrow().len();
        match N - 1 - held {
            0 => self.changed[0].inplace_op2(self.gradient, self),
            next => self.changed[next].inplace_op1(self),
        }
    }
}

impl<const N: usize> InplaceOp1 for Lend<'_, '_, N> {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let mut held = self.held.take();
        let name = self.names[N - 1 - held.len()];
        held.push(args::slice_mut(self.op, name, storage, layout)?);
        let lend = Lend {
            held: RefCell::new(held),
            ..*self
        };
        lend.next()
    }
}

impl<const N: usize> InplaceOp2 for Lend<'_, '_, N> {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let mut held = self.held.take();
        held.push(args::slice_mut(self.op, self.names[0], storage, layout)?);
        held.reverse();
        let gradient = args::slice(self.op, self.names[N], gradient, gradient_layout)?;
        match held.try_into() {
            Ok(all) => (self.then)(all, gradient),
            Err(_) => bail!("{}: expected {N} tensors to change", self.op),
        }
        Ok(())
    }
}
