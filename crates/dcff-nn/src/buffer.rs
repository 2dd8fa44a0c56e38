//! Memory of feature maps: aligned to cache lines and used again.
//!
//! A training step asks for the same sizes in the same order as the step before. Handing memory back to the system in
//! between would cost a page fault per 4 KiB on the next use, which is as much time as a batch norm. Memory therefore
//! comes from large chunks, out of which blocks of any size are cut and into which neighbours grow together again when
//! they are released. The system provides pages of a chunk when they are first touched, so the rest of a chunk is only
//! begun where nothing that was used before is large enough.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod huge;

const ALIGN: usize = 64;

/// Blocks smaller than this are left to the system's allocator, which keeps them itself.
const POOLED: usize = 64 * 1024 / size_of::<f32>();

/// Numbers of a chunk: 256 MiB, of which only what is used takes memory.
const CHUNK: usize = 256 * 1024 * 1024 / size_of::<f32>();

/// Blocks take whole multiples of this many numbers, a page.
const GRAIN: usize = 4096 / size_of::<f32>();

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
    /// Whether the block was cut from a chunk.
    pooled: bool,
    numbers: PhantomData<T>,
}

/// Memory; its size counts in `f32`, whatever it holds.
struct Block {
    start: NonNull<f32>,
    capacity: usize,
}

// SAFETY: a block is plain memory with one owner.
unsafe impl Send for Block {}
// SAFETY: likewise; shared, it is only read.
unsafe impl Sync for Block {}

/// Memory that blocks are cut from.
struct Chunk {
    block: Block,
    /// Numbers at its front that have been in use.
    begun: usize,
}

/// Chunks, and the ranges that are free of what was begun of them.
struct Pool {
    chunks: Vec<Chunk>,
    /// Numbers by address.
    free: BTreeMap<usize, usize>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    chunks: Vec::new(),
    free: BTreeMap::new(),
});

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    fn layout(capacity: usize) -> Option<Layout> {
        let layout = Layout::array::<f32>(capacity).ok()?;
        layout.align_to(ALIGN).ok()
    }

    /// `None` where the system has no such memory.
    fn new(capacity: usize) -> Option<Self> {
        let capacity = capacity.max(16);
        let layout = Self::layout(capacity)?;
        let start = match huge::is_worth_it(capacity) {
            true => huge::map(capacity)?,
            // SAFETY: the layout's size is not zero.
            false => NonNull::new(unsafe { alloc_zeroed(layout) }.cast())?,
        };
        Some(Self { start, capacity })
    }

    fn free(self) {
        // SAFETY: made in `new` the same way; `self` is gone afterwards.
        unsafe {
            if huge::is_worth_it(self.capacity) {
                huge::unmap(self.start, self.capacity);
            } else if let Some(layout) = Self::layout(self.capacity) {
                dealloc(self.start.as_ptr().cast(), layout);
            }
        }
    }
}

impl<T: Plain> Buffer<T> {
    /// `len` numbers of unspecified value, for what is no larger than maps that are there.
    pub(crate) fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|| refuse::<T>(len))
    }

    /// `len` numbers of unspecified value; `None` where there is no memory for them.
    pub(crate) fn try_new(len: usize) -> Option<Self> {
        let capacity = len.checked_mul(size_of::<T>())?.div_ceil(size_of::<f32>());
        if capacity < POOLED {
            return Self::try_apart(len);
        }
        Some(Self {
            block: pool().take(capacity.checked_next_multiple_of(GRAIN)?)?,
            len,
            pooled: true,
            numbers: PhantomData,
        })
    }

    /// As [`Buffer::new`], from the system. What is kept for long would part the chunks.
    fn apart(len: usize) -> Self {
        Self::try_apart(len).unwrap_or_else(|| refuse::<T>(len))
    }

    fn try_apart(len: usize) -> Option<Self> {
        let capacity = len.checked_mul(size_of::<T>())?.div_ceil(size_of::<f32>());
        Some(Self {
            block: Block::new(capacity)?,
            len,
            pooled: false,
            numbers: PhantomData,
        })
    }
}

/// Ends the program as any failed allocation does.
fn refuse<T>(len: usize) -> ! {
    match Layout::array::<T>(len) {
        Ok(layout) => handle_alloc_error(layout),
        Err(_) => panic!("no memory for {len} numbers"),
    }
}

impl Pool {
    /// A block of `len` numbers: the front of the smallest free range that holds them, of several the first in memory.
    fn take(&mut self, len: usize) -> Option<Block> {
        let fitting = self.free.iter().filter(|&(_, &free)| free >= len);
        let best = fitting.min_by_key(|&(_, &free)| free).map(|(&at, _)| at);
        let at = match best {
            Some(at) => at,
            None => self.begin(len)?,
        };
        let free = self.free.remove(&at).unwrap_or(len);
        let chunk = self.chunk_of(at);
        if free > len {
            self.free.insert(end(at, len), free - len);
        }
        let offset = (at - chunk.as_ptr() as usize) / size_of::<f32>();
        Some(Block {
            // SAFETY: the range lies within its chunk.
            start: unsafe { chunk.add(offset) },
            capacity: len,
        })
    }

    /// Begins as much more of the first chunk with room as makes a free range of `len` numbers, or a new chunk.
    fn begin(&mut self, len: usize) -> Option<usize> {
        for chunk in &mut self.chunks {
            let start = chunk.block.start.as_ptr() as usize;
            let limit = end(start, chunk.begun);
            // The range that it joins, if the last of what was begun is free.
            let last = self.free.range(start..limit).next_back();
            let (at, free) = match last {
                Some((&at, &free)) if end(at, free) == limit => (at, free),
                _ => (limit, 0),
            };
            if chunk.begun - free + len <= chunk.block.capacity {
                chunk.begun += len - free;
                self.free.insert(at, len);
                return Some(at);
            }
        }
        let block = Block::new(CHUNK.max(len))?;
        let at = block.start.as_ptr() as usize;
        self.free.insert(at, len);
        self.chunks.push(Chunk { block, begun: len });
        Some(at)
    }

    /// Takes a block back.
    fn give(&mut self, block: &Block) {
        let mut at = block.start.as_ptr() as usize;
        let mut len = block.capacity;
        let starts = |pool: &Self, at: usize| pool.chunk_of(at).as_ptr() as usize == at;
        if let Some((&before, &free)) = self.free.range(..at).next_back()
            && end(before, free) == at
            && !starts(self, at)
        {
            self.free.remove(&before);
            (at, len) = (before, free + len);
        }
        let behind = end(at, len);
        if let Some(&free) = self.free.get(&behind)
            && !starts(self, behind)
        {
            self.free.remove(&behind);
            len += free;
        }
        self.free.insert(at, len);
    }

    /// The start of the chunk that an address lies in.
    fn chunk_of(&self, at: usize) -> NonNull<f32> {
        let starts = self.chunks.iter().map(|chunk| chunk.block.start);
        starts
            .filter(|start| start.as_ptr() as usize <= at)
            .max()
            .expect("blocks are cut from chunks")
    }

    /// Takes out the chunks that are free as a whole.
    fn unused(&mut self) -> Vec<Block> {
        let free = &mut self.free;
        self.chunks
            .extract_if(.., |chunk| {
                let at = chunk.block.start.as_ptr() as usize;
                let whole = free.get(&at) == Some(&chunk.begun);
                if whole {
                    free.remove(&at);
                }
                whole
            })
            .map(|chunk| chunk.block)
            .collect()
    }
}

/// The address behind `len` numbers at `at`.
fn end(at: usize, len: usize) -> usize {
    at + len * size_of::<f32>()
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
        .unwrap_or_else(|| Buffer::apart(len));
    let result = f(&mut buffer[..len]);
    SCRATCH.set(Some(buffer));
    result
}

/// Gives the memory of released feature maps, which waits for the next step, back to the system, as far as nothing that
/// is still in use lies beside it.
pub fn release_memory() {
    let chunks = pool().unused();
    chunks.into_iter().for_each(Block::free);
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let block = Block {
            start: self.block.start,
            capacity: self.block.capacity,
        };
        if self.pooled {
            pool().give(&block);
        } else {
            block.free();
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
        assert!((POOLED + 1..=POOLED + GRAIN).contains(&bytes.block.capacity));
        bytes.fill(7);
        assert!(bytes.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn blocks_are_cut_from_the_tightest_range_and_grow_together_again() {
        let mut pool = Pool {
            chunks: Vec::new(),
            free: BTreeMap::new(),
        };
        let sizes = |pool: &Pool| pool.free.values().copied().collect::<Vec<_>>();
        let blocks = [3, 2, 4, 1].map(|pages| pool.take(pages * GRAIN).unwrap());
        let begun = |pool: &Pool| pool.chunks[0].begun;
        assert_eq!((sizes(&pool), begun(&pool)), (vec![], 10 * GRAIN));
        let [a, b, c, d] = blocks;
        pool.give(&a);
        pool.give(&c);
        assert_eq!(sizes(&pool), [3 * GRAIN, 4 * GRAIN]);
        // Three pages fit where three were; two do not go there any more, but where four were.
        let three = pool.take(3 * GRAIN).unwrap();
        assert_eq!(three.start, a.start);
        let two = pool.take(2 * GRAIN).unwrap();
        assert_eq!(two.start, c.start);
        assert_eq!((sizes(&pool), begun(&pool)), (vec![2 * GRAIN], 10 * GRAIN));
        // What fits nowhere takes the free end with it when more of the chunk is begun.
        pool.give(&d);
        let five = pool.take(5 * GRAIN).unwrap();
        // SAFETY: four pages are `c`'s.
        assert_eq!(five.start, unsafe { c.start.add(2 * GRAIN) });
        assert_eq!((sizes(&pool), begun(&pool)), (vec![], 12 * GRAIN));
        // More than a chunk has one of its own, and two chunks never grow together.
        let large = pool.take(CHUNK + GRAIN).unwrap();
        assert_eq!(pool.chunks.len(), 2);
        pool.give(&large);
        assert_eq!(pool.free.len(), 1);
        let unused = pool.unused();
        assert_eq!(unused.len(), 1);
        unused.into_iter().for_each(Block::free);
        for block in [three, b, five, two] {
            pool.give(&block);
        }
        assert_eq!(sizes(&pool), [12 * GRAIN]);
        let unused = pool.unused();
        assert_eq!((unused.len(), pool.free.len()), (1, 0));
        unused.into_iter().for_each(Block::free);
    }
}
