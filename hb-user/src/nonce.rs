//! Boot nonces.

use std::io;

/// Draws the nonce of a kernel half that is new.
///
/// # Errors
///
/// The kernel gives no random numbers.
pub(crate) fn draw() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: eight writable bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 {
        // Zero means "never seen" on the wire.
        Ok(u64::from_ne_bytes(bytes) | 1)
    } else {
        Err(io::Error::last_os_error())
    }
}
