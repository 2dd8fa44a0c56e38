//! Large blocks on huge pages, where the system hands them out on request (Linux).
//!
//! Streaming over maps of many megabytes is up to half as fast again when the processor translates
//! addresses in steps of 2 MiB instead of 4 KiB.

#[cfg(not(target_os = "linux"))]
use std::ptr::NonNull;

#[cfg(target_os = "linux")]
mod linux {
    use std::ptr::NonNull;

    const PAGE: usize = 2 * 1024 * 1024;

    /// Whether a block is large enough.
    pub(in super::super) fn is_worth_it(capacity: usize) -> bool {
        capacity >= PAGE / size_of::<f32>()
    }

    /// Bytes to map for a block.
    fn bytes(capacity: usize) -> Option<usize> {
        let bytes = capacity.checked_mul(size_of::<f32>())?;
        bytes.checked_next_multiple_of(PAGE)
    }

    pub(in super::super) fn map(capacity: usize) -> Option<NonNull<f32>> {
        let bytes = bytes(capacity).filter(|&bytes| bytes <= isize::MAX as usize - PAGE)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, a page more than needed; what lies before and behind the aligned
        // part goes back at once.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes + PAGE, protection, flags, -1, 0);
            if start == libc::MAP_FAILED {
                return None;
            }
            let before = start.align_offset(PAGE);
            if before > 0 {
                libc::munmap(start, before);
            }
            let aligned = start.byte_add(before);
            libc::munmap(aligned.byte_add(bytes), PAGE - before);
            // Only advice: where it is refused, small pages serve.
            libc::madvise(aligned, bytes, libc::MADV_HUGEPAGE);
            NonNull::new(aligned.cast())
        }
    }

    pub(in super::super) unsafe fn unmap(start: NonNull<f32>, capacity: usize) {
        if let Some(bytes) = bytes(capacity) {
            // SAFETY: the caller's: `start` came from `map` with this capacity, which mapped these bytes.
            unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{is_worth_it, map, unmap};

/// Whether a block of `capacity` numbers is mapped here; otherwise the general allocator serves.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_worth_it(_capacity: usize) -> bool {
    false
}

/// Zeroed memory for `capacity` numbers, or `None` where there is none.
#[cfg(not(target_os = "linux"))]
pub(super) fn map(_capacity: usize) -> Option<NonNull<f32>> {
    None
}

/// Gives back what [`map`] made for `capacity` numbers.
///
/// # Safety
///
/// Nothing uses the block any more.
#[cfg(not(target_os = "linux"))]
pub(super) unsafe fn unmap(_start: NonNull<f32>, _capacity: usize) {}
