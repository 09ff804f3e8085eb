//! The program in the kernel, packet by packet and timer by timer. Needs root.

#[cfg(test)]
mod program {
    mod answers;
    mod arrivals;
    mod buried;
    mod carriers;
    mod closing;
    mod detector;
    mod foreign;
    mod gate;
    mod interfaces;
    mod lease_view;
    mod mutated;
    #[path = "../net/namespace.rs"]
    mod namespace;
    mod packets;
    mod pauses;
    mod pins;
    #[path = "../../hb-user/src/fuzz/random.rs"]
    mod random;
    mod refusals;
    mod rig;
    mod tcx;
    mod timers;
    mod verifier;
    mod vip_packets;
    mod witness;
}
