//! Plain narrow weights as safetensors with their config, and back
