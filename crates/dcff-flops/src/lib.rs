//! Multiply-accumulates and parameters of an architecture, to the integer
