//! Training layers for Candle with their own CPU kernels: convolution, batch norm, pooling, loss, SGD
