//! Comparison with criterion vectors recorded from the authors' program.
