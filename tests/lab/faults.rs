//! What can go wrong in the lab.
