//! Micro-benchmarks; see the `[[bench]]` files beside this one.
