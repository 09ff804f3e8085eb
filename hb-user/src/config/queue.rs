//! How long packets may wait in the queue of an interface, which `margin` has to cover.

use std::{fs, path::Path, time::Duration};

use super::Readable;

/// Bytes an Ethernet packet takes on the wire beside its payload: header, VLAN tag, checksum,
/// preamble and gap.
const FRAMING: u64 = 14 + 4 + 4 + 8 + 12;

/// The queue of an interface, as `/sys/class/net` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Packets it holds (`txqueuelen`); what the driver's ring holds comes on top.
    pub packets: u64,
    /// Bytes in the payload of a packet.
    pub mtu: u64,
    /// Speed in Mbit/s.
    pub mbits: u64,
}

impl Queue {
    /// Reads the queue of the interface called `name`. `None` if it has none, or none of a known
    /// speed, as virtual interfaces often do.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let directory = Path::new("/sys/class/net").join(name);
        let number = |file| fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok();
        let (packets, mtu, mbits) = (number("tx_queue_len")?, number("mtu")?, number("speed")?);
        (packets > 0 && mbits > 0).then_some(Self { packets, mtu, mbits })
    }

    /// Returns how long the queue takes to drain at line rate when it is full.
    #[must_use]
    pub fn drains_in(&self) -> Duration {
        let bits = self.packets.saturating_mul(self.mtu.saturating_add(FRAMING)).saturating_mul(8);
        // A megabit a second is a bit a microsecond.
        Duration::from_nanos(bits.saturating_mul(1000) / self.mbits)
    }
}

impl Queue {
    /// Returns what to say of the queue of `interface` if packets may wait there for longer than
    /// `margin`.
    #[must_use]
    pub fn slower_than(&self, margin: Duration, interface: &str) -> Option<String> {
        let drains = self.drains_in();
        (drains > margin).then(|| {
            format!(
                "{interface}: {} packets of {} bytes may wait for {} at {} Mbit/s, longer than \
                 margin {}; if it is ever full, shorten txqueuelen or raise margin",
                self.packets,
                self.mtu,
                Readable(drains),
                self.mbits,
                Readable(margin),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabit_is_slow() {
        let queue = Queue { packets: 1000, mtu: 1500, mbits: 1000 };
        assert_eq!(queue.drains_in(), Duration::from_nanos(12_336_000));
        let said = queue.slower_than(Duration::from_millis(12), "eth0").unwrap();
        let begins =
            "eth0: 1000 packets of 1500 bytes may wait for 12.336ms at 1000 Mbit/s, longer";
        assert!(said.starts_with(begins), "{said}");
        assert_eq!(queue.slower_than(queue.drains_in(), "eth0"), None);
        let fast = Queue { packets: u64::MAX, mtu: u64::MAX, mbits: 1 };
        assert!(fast.drains_in() > Duration::from_secs(3600));
    }

    #[test]
    fn an_interface_that_is_not_there_has_none() {
        assert_eq!(Queue::read("no-such-one"), None);
        // The loopback interface has no speed.
        assert_eq!(Queue::read("lo"), None);
    }
}
