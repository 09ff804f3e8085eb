//! Addresses, announcements and the sockets of heartbeats, in network namespaces. Needs root.

#[cfg(test)]
mod net {
    mod address;
    mod allocations;
    mod announce;
    mod capture;
    mod link;
    mod memory;
    mod namespace;
    mod sockets;
    mod syscalls;
}
