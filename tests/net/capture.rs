//! Frames as they arrive at an interface.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::namespace::PATIENCE;

/// A packet socket that takes every frame of one interface.
pub(crate) struct Capture(OwnedFd);

impl Capture {
    /// Opens it in the namespace of the calling thread.
    pub(crate) fn open(interface: u32) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: takes three integers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all))
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the call succeeded, so `fd` is open and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zero is a valid address of this family.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = interface as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: `address` is readable for `length` bytes.
        let result = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        let patience = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
        let length = size_of_val(&patience) as u32;
        // SAFETY: `patience` is readable for `length` bytes.
        let result = unsafe {
            let value = (&raw const patience).cast();
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, length)
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    /// Waits for the next frame that `wanted` tells.
    pub(crate) fn next(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let mut bytes = vec![0; 2048];
            // SAFETY: `bytes` is writable for its length.
            let length = unsafe {
                libc::recv(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0)
            };
            assert!(length >= 0, "no such frame: {}", io::Error::last_os_error());
            bytes.truncate(length as usize);
            if wanted(&bytes) {
                return bytes;
            }
        }
    }
}
