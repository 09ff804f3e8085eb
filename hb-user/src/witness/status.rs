//! What the kernel half of a witness is doing.
