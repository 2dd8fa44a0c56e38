//! Importance criteria for the filters of a convolution
