//! Memory moved without calls.
//!
//! For BPF the compiler makes of a store of zeros or a copy that is too long to be written out, or of a
//! length that it does not know, a call of a loop over single bytes: some 20 ns for a group's word. Under
//! a lock Linux takes no such call before 6.9; `tests/locks.rs` finds it. What each frame needs is stored
//! here instead, in a way that the compiler does not recognize.

/// Copies `from` to `to`, one word after the other.
#[inline(always)]
pub fn copy<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: a unique reference is valid to write. Volatile, so that no loop over bytes takes its
        // place.
        unsafe { core::ptr::write_volatile(to, *from) };
    }
}

/// Copies a MAC address: six bytes that are aligned nowhere.
#[inline(always)]
pub fn copy_mac(to: &mut [u8; 6], from: [u8; 6]) {
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(to, from) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_copied() {
        let mut to = [9; 40];
        let from = core::array::from_fn(|n| n as u64);
        copy(&mut to, &from);
        assert_eq!(to, from);
        let mut to = [9; 6];
        copy_mac(&mut to, [1, 2, 3, 4, 5, 6]);
        assert_eq!(to, [1, 2, 3, 4, 5, 6]);
    }
}
