//! The criterion pass over the 13 convolutions of the published VGG-16: distances, proxies, scores, kept ids,
//! coefficients and the fused kernels, as at the start of an epoch.
//!
//! `cargo bench -p dcff-fusion` prints for every criterion the median and the shortest time of a pass, and the most
//! memory that it held beyond the filters.
//! On a busy machine the shortest time is the one to compare.
//! Memory is counted by the allocator, so it neither depends on what the system reports nor misses a short peak.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use dcff_fusion::{Fuser, KeepMode, PUBLISHED, Rates};

/// Filters `C_out` of each convolution.
const FILTERS: [usize; 13] = [
    64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512,
];

/// Passes per criterion; the median is reported.
const PASSES: usize = 11;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Layer {
    name: String,
    filters: Tensor,
    kept: usize,
}

/// The published layers with PyTorch's default weights: uniform within 1/√(C_in · 9).
fn layers() -> Vec<Layer> {
    let Ok(Rates::List(rates)) = PUBLISHED[0].parsed_rates() else {
        unreachable!("the first published setting is VGG-16, a list")
    };
    let mut inputs = 3;
    let mut layers = Vec::new();
    for (i, (filters, rate)) in FILTERS.into_iter().zip(rates).enumerate() {
        let bound = 1.0 / ((inputs * 9) as f32).sqrt();
        let kept = rate.kept(filters);
        layers.push(Layer {
            name: format!("convolution {i}"),
            filters: Tensor::rand(-bound, bound, (filters, inputs, 3, 3), &Device::Cpu)
                .expect("filters fit the memory"),
            kept,
        });
        inputs = kept;
    }
    layers
}

fn pass(fuser: &mut Fuser, layers: &[Layer], temperature: f64) -> dcff_fusion::Result<()> {
    for layer in layers {
        let pass = fuser.pass(&layer.name, &layer.filters, layer.kept, temperature)?;
        std::hint::black_box(pass.coefficients.fused(&layer.filters)?);
    }
    Ok(())
}

fn main() -> dcff_fusion::Result<()> {
    let layers = layers();
    println!(
        "criterion pass, VGG-16 (13 convolutions), {} threads",
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    println!(
        "{:<14} {:>11} {:>12} {:>12} {:>12}",
        "criterion", "temperature", "median [ms]", "fastest [ms]", "peak [MB]"
    );
    for criterion in dcff_criteria::ALL {
        // Soft proxies, the middle, and the end of the schedule, where nearly all proxies underflow.
        for temperature in [1.0, 100.0, 1e4] {
            let mut fuser = Fuser::new(*criterion, KeepMode::Fuse, 0);
            // The first pass starts the threads and gives `kl-published` finite scores to keep.
            pass(&mut fuser, &layers, 1.0)?;
            let before = HELD.load(Relaxed);
            PEAK.store(before, Relaxed);
            let mut times = Vec::new();
            for _ in 0..PASSES {
                let start = Instant::now();
                pass(&mut fuser, &layers, temperature)?;
                times.push(start.elapsed());
            }
            let peak = PEAK.load(Relaxed) - before;
            times.sort_unstable();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            println!(
                "{:<14} {temperature:>11} {:>12.1} {:>12.1} {:>12.1}",
                criterion.name(),
                ms(times[PASSES / 2]),
                ms(times[0]),
                peak as f64 / 1e6
            );
        }
    }
    Ok(())
}
