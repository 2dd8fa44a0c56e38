//! What kernels take, field by field as in their text: addresses on the GPU are 64-bit numbers.

use std::ffi::c_void;

/// Tensors that one launch can work on; a launch's parameters are limited to 4 KiB.
pub(crate) const TENSORS: usize = 96;
/// Layers whose filters one launch can make ready.
pub(crate) const FILTERS: usize = 80;
/// Numbers of a tensor that one block works on.
pub(crate) const NUMBERS: usize = 2048;

/// Parameters in the layout that the kernels declare.
///
/// # Safety
///
/// The structure is `repr(C)` and equals its namesake in the kernels' text.
pub(crate) unsafe trait Parameters {
    /// Where they are.
    fn address(&self) -> *const c_void {
        std::ptr::from_ref(self).cast()
    }
}

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub(crate) struct $name {
                $(pub(crate) $field: $type,)*
            }
        )*
    };
}

parameters! {
    /// `[a, c, p]` to `[a, p, c]`, or back.
    Permute { from: u64, to: u64, a: i64, c: i64, p: i64, }
    /// Number by number.
    Elementwise { a: u64, b: u64, y: u64, count: i64, rule: i32, low: f32, high: f32, }
    /// Channels of one map into another.
    CopyChannels { x: u64, y: u64, rows: i64, x_channels: i32, y_channels: i32, from: i32, to: i32, count: i32, }
    /// The shortcut without parameters, and its gradient.
    Shortcut { from: u64, to: u64, n: i32, h: i32, w: i32, c: i32, oh: i32, ow: i32, oc: i32, stride: i32, before: i32, }
    /// A constant added to maps, and its gradient.
    Offset { x: u64, o: u64, y: u64, n: i32, h: i32, w: i32, c: i32, top: i32, bottom: i32, left: i32, right: i32, }
    /// How threads share pixels and channels.
    Rows { rows: i64, channels: i32, vector: i32, lanes: i32, }
    /// Statistics of a batch.
    Measure { x: u64, gamma: u64, parts: u64, counter: u64, mean: u64, var: u64, scale: u64, eps: f64, rows: Rows, }
    /// The factor of a batch norm with given variance.
    Scale { gamma: u64, var: u64, scale: u64, eps: f64, channels: i32, }
    /// The second half of a batch norm.
    Apply { x: u64, residual: u64, y: u64, mean: u64, scale: u64, beta: u64, rows: Rows, low: f32, high: f32, }
    /// Sums over pixels for gradients.
    Sums { x: u64, y: u64, dy: u64, gamma: u64, mean: u64, var: u64, parts: u64, counter: u64, d_gamma: u64, d_beta: u64, factors: u64, eps: f64, rows: Rows, low: f32, high: f32, }
    /// The second half of a batch norm's gradient.
    Backward { x: u64, y: u64, dy: u64, dx: u64, dz: u64, mean: u64, factors: u64, rows: Rows, low: f32, high: f32, }
    /// Pooling and its gradients.
    Pool { from: u64, to: u64, taps: u64, n: i32, h: i32, w: i32, c: i32, oh: i32, ow: i32, kernel: i32, stride: i32, padding: i32, }
    /// A convolution or one of its gradients.
    Conv { x: u64, w: u64, y: u64, bias: u64, n: i32, h: i32, wide: i32, c: i32, x_channels: i32, oh: i32, ow: i32, o: i32, y_channels: i32, kh: i32, kw: i32, stride: i32, padding: i32, groups: i32, splits: i32, }
    /// The parts of a weight gradient.
    Join { parts: u64, dw: u64, o: i64, c: i64, taps: i64, splits: i32, }
    /// A bias, where the convolution does not add it.
    AddBias { y: u64, bias: u64, count: i64, channels: i32, }
    /// A batch from bytes.
    Images { data: u64, tables: u64, order: u64, to: u64, n: i32, c: i32, h: i32, w: i32, }
    /// The loss.
    CrossEntropy { logits: u64, labels: u64, grad: u64, loss: u64, smoothing: f64, n: i32, k: i32, }
    /// Up to [`TENSORS`] triples of tensors.
    Tensors { a: [u64; TENSORS], b: [u64; TENSORS], c: [u64; TENSORS], length: [u32; TENSORS], first: [u32; TENSORS], count: i32, }
    /// A step of gradient descent.
    Sgd { tensors: Tensors, rate: u64, momentum: f32, decay: f32, nesterov: i32, }
    /// A step of Adamax or AdamW.
    Adam { tensors: Tensors, d: [u64; TENSORS], rates: u64, take: f32, keep: f32, add: f32, eps: f32, decay: f32, }
    /// Running statistics.
    Blend { tensors: Tensors, keep: [f32; TENSORS], add: [f32; TENSORS], }
    /// Up to [`FILTERS`] layers' filters, made ready for convolutions.
    FiltersIn { from: [u64; FILTERS], to: [u64; FILTERS], rows: [u64; FILTERS], scale: [u64; FILTERS], length: [u32; FILTERS], first: [u32; FILTERS], channels: [i32; FILTERS], taps: [i32; FILTERS], count: i32, }
    /// The gradient of a layer's filters, some of which were used.
    FiltersOut { from: u64, to: u64, rows: u64, count: i32, channels: i32, taps: i32, }
    /// Distances between filters.
    Distances { w: u64, d: u64, filters: i32, length: i32, }
}

const _: () = assert!(
    size_of::<Sgd>() <= 4096
        && size_of::<Adam>() <= 4096
        && size_of::<Blend>() <= 4096
        && size_of::<FiltersIn>() <= 4096
);

macro_rules! taken {
    ($($name:ident)*) => {
        $(
            // SAFETY: `repr(C)`, and field by field the structure of that name in the kernels' text.
            unsafe impl Parameters for $name {}
        )*
    };
}

taken! {
    Permute Elementwise CopyChannels Shortcut Offset Measure Scale Apply Sums Backward Pool Conv Join AddBias Images CrossEntropy Sgd Adam Blend Distances FiltersIn FiltersOut
}
