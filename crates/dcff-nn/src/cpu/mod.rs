//! The processor's vector instructions, chosen once at run time.
//!
//! Kernels are written once, generic over [`Simd`] ("sixteen numbers"), and compiled for every
//! instruction set of the target. [`Isa::run`] enters the copy compiled for one of them.
//!
//! On one instruction set results are the same to the bit, whatever the processor and the number of
//! threads. From one to another the last bits may differ: AVX-512 adds the lanes of Winograd's weight
//! gradient in another order, the tiles of matrix products are cut otherwise, and plain code rounds
//! between a product and a sum. What only moves, compares or rounds numbers is the same everywhere.

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod simd;

pub(crate) use simd::{Kernel, Simd};

/// An instruction set that this crate has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// x86-64 with AVX-512F and BW: sixteen numbers a register.
    Avx512,
    /// x86-64 with AVX2 and FMA: eight numbers a register.
    Avx2,
    /// 64-bit Arm: four numbers a register.
    Neon,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// What [`Isa::with`] chose for a thread, to be handed on to those that work for it.
#[derive(Clone, Copy)]
pub(crate) struct Forced(Option<Isa>);

impl Forced {
    /// That of this thread.
    pub(crate) fn here() -> Self {
        Self(FORCED.get())
    }

    /// Runs `f` with this choice on this thread.
    pub(crate) fn during<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        let _restore = Restore(FORCED.replace(self.0));
        f()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "plain code",
        })
    }
}

impl Isa {
    /// Every instruction set that this processor can run, best first.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            #[allow(unused_mut, reason = "other processors have nothing to add")]
            let mut found = vec![Isa::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if avx2 {
                    found.insert(0, Isa::Avx2);
                }
                let avx512 =
                    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
                if avx2 && avx512 {
                    found.insert(0, Isa::Avx512);
                }
            }
            #[cfg(target_arch = "aarch64")]
            found.insert(0, Isa::Neon);
            found
        })
    }

    /// The instruction set that operations called on this thread use.
    pub fn current() -> Isa {
        FORCED.get().unwrap_or_else(|| Isa::available()[0])
    }

    /// Runs `f`; the operations that it calls use this instruction set, and so does the work that they
    /// hand to other threads. What `f` itself runs on other threads does not.
    ///
    /// Meant for tests and comparisons. Returns `None`, without calling `f`, on a processor that
    /// lacks the instructions.
    pub fn with<R>(self, f: impl FnOnce() -> R) -> Option<R> {
        let able = Isa::available().contains(&self);
        able.then(|| Forced(Some(self)).during(f))
    }

    /// Calls `f` with every instruction set of this processor, best first, as [`Isa::with`] does.
    ///
    /// For tests: a processor that has the best instructions so shows the faults of one that has not.
    pub fn each(mut f: impl FnMut(Isa)) {
        struct Tell(Isa);
        impl Drop for Tell {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("with the instruction set {:?}", self.0);
                }
            }
        }
        for &isa in Isa::available() {
            let _tell = Tell(isa);
            isa.with(|| f(isa));
        }
    }

    /// Runs the copy of `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // A value other than `Portable` comes from `available`, which asked the processor.
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has AVX-512.
            Isa::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has AVX2 and FMA.
            Isa::Avx2 => unsafe { avx2::run(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: every 64-bit Arm processor has NEON.
            Isa::Neon => unsafe { neon::run(kernel) },
            _ => kernel.run::<portable::Portable>(),
        }
    }

    /// Pixels that a register tile of the convolution kernels holds.
    pub(crate) fn tile_pixels(self) -> usize {
        match self {
            Isa::Avx512 => 8,
            _ => 2,
        }
    }
}
