//! Work split over rayon's current thread pool.
//!
//! Tasks write disjoint parts of one output. Which task computes a number may depend on the number
//! of threads; the order in which a number's terms are added never does.

use std::cell::Cell;

use rayon::prelude::*;

use crate::buffer::Plain;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Steps of vectors below which handing work to other threads costs more than it saves.
const WORTH: usize = 32 * 1024;

/// Threads that work is split over.
pub(crate) fn count() -> usize {
    if ALONE.get() {
        1
    } else {
        rayon::current_num_threads()
    }
}

/// Calls `f`, whose own work stays on this thread: for tasks that keep all threads busy as they are.
pub(crate) fn alone<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    f()
}

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
    if tasks <= 1 || count() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// As [`each`], on this thread alone if all tasks together are not `work` enough.
pub(crate) fn each_worth(tasks: usize, work: usize, task: impl Fn(usize) + Send + Sync) {
    if work < WORTH {
        (0..tasks).for_each(task);
    } else {
        each(tasks, task);
    }
}

/// Runs `task(0)` to `task(tasks - 1)` and returns what they made, in order.
pub(crate) fn map<T: Send>(tasks: usize, task: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    if tasks <= 1 || count() == 1 {
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
    if count() == 1 {
        return 1;
    }
    let wanted = 4 * count();
    wanted.div_ceil(groups.max(1)).clamp(1, items.max(1))
}
