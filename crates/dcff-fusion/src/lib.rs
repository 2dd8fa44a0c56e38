//! From filter scores to kept filters and fusion coefficients
