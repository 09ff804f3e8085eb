//! Key
