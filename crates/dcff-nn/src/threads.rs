//! Work split over rayon's current thread pool.
//!
//! Tasks write disjoint parts of one output. Which task computes a number may depend on the number
//! of threads; the order in which a number's terms are added never does.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::Device;

use crate::cpu::Forced;

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
pub(crate) struct Out<T = f32>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

// SAFETY: the users write disjoint parts.
unsafe impl<T: Send> Send for Out<T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Sync for Out<T> {}

impl<T> Out<T> {
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
        // SAFETY: the caller's: `offset` lies within the slice.
        unsafe { self.0.add(offset) }
    }
}

/// Runs `task(0)` to `task(tasks - 1)`.
///
/// Every thread has its share of the numbers, the same in every call, so that what it wrote for one layer is in its cache
/// when it reads it for the next. One that has done its share goes on with what others have left of theirs.
pub(crate) fn each(tasks: usize, task: impl Fn(usize) + Send + Sync) {
    let shares = count().min(tasks);
    if shares <= 1 {
        return (0..tasks).for_each(task);
    }
    let next: Vec<AtomicUsize> = (0..shares)
        .map(|share| AtomicUsize::new(share * tasks / shares))
        .collect();
    let ended = AtomicUsize::new(0);
    let forced = Forced::here();
    let work = || {
        let own = rayon::current_thread_index().unwrap_or(0);
        for share in (own..own + shares).map(|share| share % shares) {
            let end = (share + 1) * tasks / shares;
            loop {
                let number = next[share].fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    break;
                }
                let _ended = OnDrop(|| {
                    ended.fetch_add(1, Ordering::Release);
                });
                task(number);
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..shares {
            scope.spawn(|_| forced.during(work));
        }
        work();
        // The scope would put this thread to sleep; the others are about to end.
        while ended.load(Ordering::Acquire) < tasks {
            pause();
        }
    });
}

/// Threads beside the calling one that may spin: where there are more of them than processors, they take turns with those
/// that work.
fn spinners() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let processors = *PROCESSORS.get_or_init(|| {
        std::thread::available_parallelism().map_or(usize::MAX, std::num::NonZero::get)
    });
    count().min(processors) - 1
}

/// Runs `f` while the other threads of the pool, no more than there are processors, stay awake between the pieces of work that `f` hands out.
///
/// A step of training splits its work hundreds of times, with a moment on one thread between. A thread that sleeps
/// through that moment takes longer to wake (50 µs and more on virtual machines) than a small layer takes. Threads that
/// wait give way to other programs, but do not rest: wrap steps, not programs. Work on a GPU needs no threads; with its
/// `device`, `f` is called and nothing else happens.
pub fn awake<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    /// Set while one call keeps the threads awake: a second would not make them more so.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let spinners = spinners();
    if !device.is_cpu() || spinners == 0 || TAKEN.swap(true, Ordering::Acquire) {
        return f();
    }
    let _free = OnDrop(|| TAKEN.store(false, Ordering::Release));
    let over = AtomicBool::new(false);
    rayon::in_place_scope(|scope| {
        for _ in 0..spinners {
            scope.spawn(|_| {
                while !over.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        pause();
                    }
                }
            });
        }
        let _over = OnDrop(|| over.store(true, Ordering::Release));
        f()
    })
}

/// Waits for a moment that is shorter than a sleep.
fn pause() {
    for _ in 0..8 {
        std::hint::spin_loop();
    }
    std::thread::yield_now();
}

/// Calls its function when it is dropped, by a panic too.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
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
        return (0..tasks).map(task).collect();
    }
    let mut made: Vec<Option<T>> = (0..tasks).map(|_| None).collect();
    let out = Out(made.as_mut_ptr());
    // SAFETY: a task writes its own place.
    each(tasks, |number| unsafe {
        *out.at(number) = Some(task(number));
    });
    made.into_iter().flatten().collect()
}

/// Parts to split `items` of work into, per group, so that `groups` groups keep all threads busy.
///
/// A split costs what its parts do alike, so there are as few as leave no thread idle for long.
pub(crate) fn parts(groups: usize, items: usize) -> usize {
    let (groups, items) = (groups.max(1), items.max(1));
    let threads = count();
    (1..items)
        .find(|parts| {
            let tasks = groups * parts;
            tasks >= 4 * threads || tasks % threads == 0
        })
        .unwrap_or(items)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Isa;

    fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(f)
    }

    #[test]
    fn every_number_has_its_turn_once() {
        for threads in [1, 2, 5] {
            for tasks in [0, 1, 2, 3, 7, 100] {
                let turns: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let made = with_threads(threads, || {
                    awake(&Device::Cpu, || {
                        each(tasks, |number| {
                            turns[number].fetch_add(1, Ordering::Relaxed);
                        });
                        map(tasks, |number| number)
                    })
                });
                assert!(turns.iter().all(|turns| turns.load(Ordering::Relaxed) == 1));
                assert_eq!(made, (0..tasks).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_chosen_instruction_set_goes_along() {
        let other = *Isa::available().last().unwrap();
        let used = || {
            // More tasks than one thread takes on before the others wake.
            map(200, |_| {
                std::thread::sleep(std::time::Duration::from_micros(50));
                (std::thread::current().id(), Isa::current())
            })
        };
        let (chosen, after) = with_threads(3, || (other.with(used).unwrap(), used()));
        let threads: HashSet<_> = chosen.iter().map(|(thread, _)| thread).collect();
        assert!(threads.len() > 1, "all on one thread");
        assert!(chosen.iter().all(|&(_, isa)| isa == other));
        let best = Isa::available()[0];
        assert!(after.iter().all(|&(_, isa)| isa == best));
    }

    #[test]
    fn no_more_threads_spin_than_there_are_processors() {
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(with_threads(1, spinners), 0);
        assert_eq!(with_threads(2, spinners), processors.min(2) - 1);
        assert_eq!(with_threads(8 * processors, spinners), processors - 1);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for number in [0, 9] {
            let ended = std::panic::catch_unwind(|| {
                with_threads(2, || {
                    awake(&Device::Cpu, || {
                        each(10, |task| assert_ne!(task, number));
                    });
                });
            });
            assert!(ended.is_err());
            // The threads are free again.
            assert_eq!(with_threads(2, || map(3, |number| number)), [0, 1, 2]);
        }
    }

    #[test]
    fn splits_as_little_as_keeps_threads_busy() {
        with_threads(2, || {
            assert_eq!(parts(1, 100), 2);
            assert_eq!(parts(2, 100), 1);
            assert_eq!(parts(3, 100), 2);
            assert_eq!(parts(9, 100), 1);
            assert_eq!(parts(1, 1), 1);
        });
        with_threads(8, || assert_eq!(parts(3, 5), 5));
        with_threads(1, || assert_eq!(parts(1, 100), 1));
    }
}
