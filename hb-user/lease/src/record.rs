//! A record of the map as it lies in memory.

use std::{
    hint,
    mem::offset_of,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};

use crate::lease::{Lease, State};

/// Looks at one record before it is given up: the kernel writes it in some ten nanoseconds.
const TRIES: u32 = 10_000;

/// One record, 32 bytes. All in the byte order of the machine.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Record {
    /// Odd while the kernel writes what follows.
    sequence: AtomicU32,
    holder: AtomicU8,
    state: AtomicU8,
    reserved: [u8; 2],
    epoch: AtomicU64,
    expires_ns: AtomicU64,
    fingerprint: AtomicU32,
    reserved2: u32,
}

const _: () = assert!(size_of::<Record>() == 32);
const _: () = assert!(offset_of!(Record, holder) == 4);
const _: () = assert!(offset_of!(Record, state) == 5);
const _: () = assert!(offset_of!(Record, epoch) == 8);
const _: () = assert!(offset_of!(Record, expires_ns) == 16);
const _: () = assert!(offset_of!(Record, fingerprint) == 24);

impl Record {
    /// Reads what it says at one instant; `None` if it changed, or was being written, at every look.
    pub(crate) fn read(&self) -> Option<Lease> {
        for _ in 0..TRIES {
            let before = self.sequence.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let lease = Lease {
                    holder: self.holder.load(Ordering::Relaxed),
                    state: State::from_code(self.state.load(Ordering::Relaxed)),
                    epoch: self.epoch.load(Ordering::Relaxed),
                    expires_ns: self.expires_ns.load(Ordering::Relaxed),
                    fingerprint: self.fingerprint.load(Ordering::Relaxed),
                };
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return Some(lease);
                }
            }
            hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use hb_ebpf::maps;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel_half() {
        assert_eq!(size_of::<Record>(), size_of::<maps::Lease>());
        assert!(align_of::<Record>() <= 8, "the kernel aligns values to 8 bytes");
        let offsets = [
            (offset_of!(Record, sequence), offset_of!(maps::Lease, sequence)),
            (offset_of!(Record, holder), offset_of!(maps::Lease, holder)),
            (offset_of!(Record, state), offset_of!(maps::Lease, state)),
            (offset_of!(Record, reserved), offset_of!(maps::Lease, reserved)),
            (offset_of!(Record, epoch), offset_of!(maps::Lease, epoch)),
            (offset_of!(Record, expires_ns), offset_of!(maps::Lease, expires_ns)),
            (offset_of!(Record, fingerprint), offset_of!(maps::Lease, fingerprint)),
            (offset_of!(Record, reserved2), offset_of!(maps::Lease, reserved2)),
        ];
        for (here, there) in offsets {
            assert_eq!(here, there);
        }
        // Taken apart without `..`, so that a new field asks for its line above.
        let maps::Lease {
            sequence,
            holder,
            state,
            reserved,
            epoch,
            expires_ns,
            fingerprint,
            reserved2,
        } = maps::Lease::default();
        let sizes = (
            size_of_val(&sequence) + size_of_val(&fingerprint) + size_of_val(&reserved2),
            size_of_val(&holder) + size_of_val(&state) + size_of_val(&reserved),
            size_of_val(&epoch) + size_of_val(&expires_ns),
        );
        assert_eq!(sizes, (12, 4, 16));
    }

    fn record(sequence: u32) -> Record {
        Record {
            sequence: AtomicU32::new(sequence),
            holder: AtomicU8::new(3),
            state: AtomicU8::new(2),
            reserved: [0; 2],
            epoch: AtomicU64::new(0x1_0000_0203),
            expires_ns: AtomicU64::new(5_000),
            fingerprint: AtomicU32::new(0x91),
            reserved2: 0,
        }
    }

    #[test]
    fn a_record_is_read_unless_it_is_being_written() {
        let (state, epoch, expires_ns) = (State::Holding, 0x1_0000_0203, 5_000);
        let held = Lease { holder: 3, state, epoch, expires_ns, fingerprint: 0x91 };
        assert_eq!(record(2).read(), Some(held));
        assert_eq!(record(3).read(), None);
    }
}
