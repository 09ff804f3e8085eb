//! State
