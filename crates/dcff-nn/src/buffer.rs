//! Memory of feature maps: aligned to cache lines and used again.
//!
//! A training step asks for the same sizes in the same order as the step before. Handing blocks
//! back to the system in between would cost a page fault per 4 KiB on the next use, which is as
//! much time as a batch norm. Released blocks therefore wait in a pool; whenever the pool cannot
//! serve a request, it first gives blocks back to the system, oldest first, so that a process holds
//! at most half as much again as it ever had in use at once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod huge;

const ALIGN: usize = 64;

/// Blocks smaller than this are left to the system's allocator, which keeps them itself.
const POOLED: usize = 64 * 1024 / size_of::<f32>();

/// Blocks in use and waiting together stay below the most that were in use at once, plus one part
/// in this many. Sizes differ from layer to layer, so the right block is often not among those that
/// wait; with less room than this, every step gives back what the next one asks for.
const SLACK: usize = 2;

/// What a buffer may hold.
///
/// # Safety
///
/// Any bits are a value, and values need no more alignment than a cache line and no clean-up.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: any bits are a number.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// Numbers in memory, their contents arbitrary (but initialised) when new.
pub(crate) struct Buffer<T: Plain = f32> {
    block: Block,
    len: usize,
    numbers: PhantomData<T>,
}

/// Memory; its size counts in `f32`, whatever it holds.
struct Block {
    start: NonNull<f32>,
    capacity: usize,
}

// SAFETY: a block is plain memory with one owner.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

/// Blocks that wait, oldest first, and how much memory there is.
struct Pool {
    waiting: Vec<Block>,
    /// Numbers in blocks that are in use, and the most that ever were.
    used: usize,
    most: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    waiting: Vec::new(),
    used: 0,
    most: 0,
});

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    fn layout(capacity: usize) -> Layout {
        Layout::array::<f32>(capacity)
            .and_then(|layout| layout.align_to(ALIGN))
            .expect("a feature map fits the address space")
    }

    fn new(capacity: usize) -> Self {
        let capacity = capacity.max(16);
        if let Some(start) = huge::map(capacity) {
            return Self { start, capacity };
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast()) else {
            handle_alloc_error(layout)
        };
        Self { start, capacity }
    }

    fn free(self) {
        // SAFETY: made in `new` the same way; `self` is gone afterwards.
        unsafe {
            if !huge::unmap(self.start, self.capacity) {
                dealloc(self.start.as_ptr().cast(), Self::layout(self.capacity));
            }
        }
    }
}

impl<T: Plain> Buffer<T> {
    /// `len` numbers of unspecified value.
    pub(crate) fn new(len: usize) -> Self {
        let capacity = (len * size_of::<T>()).div_ceil(size_of::<f32>());
        let block = if capacity < POOLED {
            Block::new(capacity)
        } else {
            from_pool(capacity)
        };
        Self {
            block,
            len,
            numbers: PhantomData,
        }
    }
}

fn from_pool(len: usize) -> Block {
    let mut evicted = Vec::new();
    let found = pool().take(len, &mut evicted);
    // Outside the lock: these calls reach the system.
    evicted.into_iter().for_each(Block::free);
    found.unwrap_or_else(|| {
        let block = Block::new(len);
        let mut pool = pool();
        pool.used += block.capacity;
        pool.most = pool.most.max(pool.used);
        block
    })
}

impl Pool {
    /// A block for `len` numbers, or none; then `evicted` are the blocks to free before making one.
    fn take(&mut self, len: usize, evicted: &mut Vec<Block>) -> Option<Block> {
        // The smallest block that serves, but never one that would waste more than a quarter.
        let best = (0..self.waiting.len())
            .filter(|&i| self.waiting[i].capacity >= len)
            .filter(|&i| self.waiting[i].capacity <= len + len / 4)
            .min_by_key(|&i| self.waiting[i].capacity);
        if let Some(best) = best {
            let block = self.waiting.remove(best);
            self.used += block.capacity;
            self.most = self.most.max(self.used);
            return Some(block);
        }
        let most = self.most.max(self.used + len);
        let mut waiting: usize = self.waiting.iter().map(|block| block.capacity).sum();
        while self.used + waiting + len > most + most / SLACK && !self.waiting.is_empty() {
            let block = self.waiting.remove(0);
            waiting -= block.capacity;
            evicted.push(block);
        }
        None
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Calls `f` with `len` numbers of unspecified value, kept by the thread for its next call.
pub(crate) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out while in use: a call within `f` then simply allocates its own.
    let mut buffer = SCRATCH
        .take()
        .filter(|buffer| buffer.len >= len)
        .unwrap_or_else(|| Buffer::new(len));
    let result = f(&mut buffer[..len]);
    SCRATCH.set(Some(buffer));
    result
}

/// Gives the memory of released feature maps, which waits for the next step, back to the system.
pub fn release_memory() {
    let blocks = {
        let mut pool = pool();
        pool.most = pool.used;
        std::mem::take(&mut pool.waiting)
    };
    blocks.into_iter().for_each(Block::free);
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let block = Block {
            start: self.block.start,
            capacity: self.block.capacity,
        };
        if block.capacity < POOLED {
            block.free();
        } else {
            let mut pool = pool();
            pool.used -= block.capacity;
            pool.waiting.push(block);
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` does not exceed the capacity, and the memory was zeroed when allocated.
        unsafe { std::slice::from_raw_parts(self.block.start.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the block has one owner.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.as_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_cache_line_and_holds_what_was_written() {
        for len in [1, 17, POOLED, POOLED + 1] {
            let mut buffer = Buffer::<f32>::new(len);
            buffer.fill(0.0);
            assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
            assert_eq!(buffer.len(), len);
            buffer[len - 1] = 3.0;
            assert_eq!(buffer.iter().sum::<f32>(), 3.0);
        }
    }

    #[test]
    fn bytes_take_a_quarter_of_the_memory() {
        let mut bytes = Buffer::<u8>::new(4 * POOLED + 3);
        assert_eq!(bytes.len(), 4 * POOLED + 3);
        assert!((POOLED + 1..2 * POOLED).contains(&bytes.block.capacity));
        bytes.fill(7);
        assert!(bytes.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_pool_prefers_the_tightest_block_and_stays_within_its_bounds() {
        let mut pool = Pool {
            waiting: [100, 130, 120, 60].map(Block::new).into(),
            used: 0,
            most: 400,
        };
        let mut evicted = Vec::new();
        let mut take = |pool: &mut Pool, len| {
            let block = pool.take(len, &mut evicted);
            let capacity = block.as_ref().map(|block| block.capacity);
            block
                .into_iter()
                .chain(evicted.drain(..))
                .for_each(Block::free);
            capacity
        };
        // 120 is the smallest that holds 110; nothing holds 90 without wasting more than a quarter
        // once 100 is gone.
        assert_eq!(take(&mut pool, 110), Some(120));
        assert_eq!(take(&mut pool, 90), Some(100));
        assert_eq!(take(&mut pool, 90), None);
        assert_eq!(pool.waiting.len(), 2);
        // 220 in use, 190 waiting and 400 more stay below 620 and its half: nothing goes.
        assert_eq!(take(&mut pool, 400), None);
        let left: Vec<usize> = pool.waiting.iter().map(|block| block.capacity).collect();
        assert_eq!((pool.used, left), (220, vec![130, 60]));
        // 190 waiting and 200 more exceed 200 and its half: the oldest goes.
        (pool.most, pool.used) = (0, 0);
        assert_eq!(take(&mut pool, 200), None);
        let left: Vec<usize> = pool.waiting.iter().map(|block| block.capacity).collect();
        assert_eq!(left, [60]);
        pool.waiting.into_iter().for_each(Block::free);
    }
}
