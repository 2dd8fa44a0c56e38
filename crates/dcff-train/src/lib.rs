//! The training loop: optimiser, schedules, methods, checkpoints, run folders
