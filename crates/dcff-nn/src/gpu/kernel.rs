//! The kernels by name, each with the structure it takes.

use std::marker::PhantomData;

#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::element::Precision;

use super::parameters::{
    Adam, AddBias, Apply, Backward, Blend, Conv, CopyChannels, CrossEntropy, Distances,
    Elementwise, FiltersIn, FiltersOut, Images, Join, Measure, Offset, Permute, Pool, Scale, Sgd,
    Shortcut, Sums,
};

/// A kernel that takes a `P`.
pub(crate) struct Kernel<P> {
    pub(crate) index: usize,
    parameters: PhantomData<fn(&P)>,
}

macro_rules! kernels {
    ($($index:literal $constant:ident $name:literal $parameters:ident,)*) => {
        $(pub(crate) const $constant: Kernel<$parameters> = Kernel { index: $index, parameters: PhantomData };)*
        /// The names in the kernels' text, by index.
        pub(crate) const NAMES: &[&str] = &[$($name,)*];
    };
}

kernels! {
    0 PERMUTE_IN "permute_in" Permute,
    1 PERMUTE_OUT "permute_out" Permute,
    2 ELEMENTWISE "elementwise" Elementwise,
    3 COPY_CHANNELS "copy_channels" CopyChannels,
    4 SHORTCUT "shortcut" Shortcut,
    5 SHORTCUT_BACKWARD "shortcut_backward" Shortcut,
    6 NORM_MEASURE "norm_measure" Measure,
    7 NORM_SCALE "norm_scale" Scale,
    8 NORM_APPLY "norm_apply" Apply,
    9 NORM_SUMS "norm_sums" Sums,
    10 NORM_BACKWARD "norm_backward" Backward,
    11 MAX_POOL "max_pool" Pool,
    12 MAX_POOL_BACKWARD "max_pool_backward" Pool,
    13 AVG_POOL "avg_pool" Pool,
    14 AVG_POOL_BACKWARD "avg_pool_backward" Pool,
    15 GLOBAL_POOL "global_pool" Pool,
    16 GLOBAL_POOL_BACKWARD "global_pool_backward" Pool,
    17 CONV_FORWARD_16 "conv_forward_16" Conv,
    18 CONV_FORWARD_32 "conv_forward_32" Conv,
    19 CONV_FORWARD_64 "conv_forward_64" Conv,
    20 CONV_INPUT_16 "conv_input_16" Conv,
    21 CONV_INPUT_32 "conv_input_32" Conv,
    22 CONV_INPUT_64 "conv_input_64" Conv,
    23 CONV_WEIGHT_16 "conv_weight_16" Conv,
    24 CONV_WEIGHT_32 "conv_weight_32" Conv,
    25 CONV_WEIGHT_64 "conv_weight_64" Conv,
    26 CONV_WEIGHT_JOIN "conv_weight_join" Join,
    27 IMAGES "images" Images,
    28 CROSS_ENTROPY "cross_entropy" CrossEntropy,
    29 SGD "sgd" Sgd,
    30 BLEND "blend" Blend,
    31 ADD_BIAS "add_bias" AddBias,
    32 FILTER_DISTANCES "filter_distances" Distances,
    33 FILTERS_IN "filters_in" FiltersIn,
    34 FILTERS_OUT "filters_out" FiltersOut,
    35 ADAMAX "adamax" Adam,
    36 ADAMW "adamw" Adam,
    37 OFFSET "offset" Offset,
    38 OFFSET_BACKWARD "offset_backward" Offset,
}

/// The kernels' text for maps of `precision`; `host` comes first where a processor runs them.
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(super) fn source(precision: Precision, host: &str) -> String {
    let define = match precision {
        Precision::F32 => "",
        Precision::Bf16 => "#define MAPS_BF16 1\n",
    };
    [
        define,
        host,
        include_str!("kernels/common.cuh"),
        include_str!("kernels/maps.cu"),
        include_str!("kernels/norm.cu"),
        include_str!("kernels/pool.cu"),
        include_str!("kernels/conv.cu"),
        include_str!("kernels/train.cu"),
        include_str!("kernels/descent.cu"),
        include_str!("kernels/distances.cu"),
        include_str!("kernels/filters.cu"),
        include_str!("kernels/offset.cu"),
    ]
    .concat()
}

#[cfg(all(test, any(feature = "cuda", feature = "emulator")))]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_text_is_listed_and_no_other() {
        let text = source(Precision::F32, "");
        let mut written: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("KERNEL(")
                    .or_else(|| line.strip_prefix("KERNEL_FLAT("))
            })
            .filter_map(|line| line.split(',').next())
            .collect();
        written.sort_unstable();
        let mut listed = NAMES.to_vec();
        listed.sort_unstable();
        assert_eq!(written, listed);
    }
}
