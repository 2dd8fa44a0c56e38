//! Convolutional networks written once as data: dense, fused and compact
