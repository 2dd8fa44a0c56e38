//! Work split over rayon's current thread pool.
//!
//! Tasks write disjoint parts of one output. Which task computes a number may depend on the number
//! of threads; the order in which a number's terms are added never does.

use rayon::prelude::*;

use crate::buffer::Plain;

/// An address that tasks share; each writes only its own part behind it.
#[derive(Clone, Copy)]
pub(crate) struct Out<T = f32>(*mut T);

// SAFETY: the users below write disjoint parts.
unsafe impl<T: Plain> Send for Out<T> {}
unsafe impl<T: Plain> Sync for Out<T> {}

impl<T: Plain> Out<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The address `offset` numbers behind the start.
    ///
    /// # Safety
    ///
    /// `offset` lies within the slice that this was made from.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut T {
        unsafe { self.0.add(offset) }
    }
}

/// Runs `task(0)` to `task(tasks - 1)`.
pub(crate) fn each(tasks: usize, task: impl Fn(usize) + Send + Sync) {
    if tasks <= 1 || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Runs `task(0)` to `task(tasks - 1)` and returns what they made, in order.
pub(crate) fn map<T: Send>(tasks: usize, task: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    if tasks <= 1 || rayon::current_num_threads() == 1 {
        (0..tasks).map(task).collect()
    } else {
        (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .map(task)
            .collect()
    }
}

/// Parts to split `items` of work into, per group, so that `groups` groups keep all threads busy.
pub(crate) fn parts(groups: usize, items: usize) -> usize {
    let wanted = 4 * rayon::current_num_threads();
    if rayon::current_num_threads() == 1 {
        return 1;
    }
    wanted.div_ceil(groups.max(1)).clamp(1, items.max(1))
}
