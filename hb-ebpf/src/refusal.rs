//! Why a heartbeat of ours was refused.

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a frame that claimed to be one of our heartbeats was refused. The number is the
        /// index of its counter and, in [`Frame::refused`](crate::wire::Frame::refused), its code
        /// on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $name = $code,)* }

        impl Refusal {
            /// Every reason, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the reason in words, for counters and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns the reason of a code from the wire.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

refusals! {
    /// Not exactly one frame long.
    Length = 1, "length";
    /// A version this program does not speak.
    Version = 2, "version";
    /// Neither probe nor answer.
    Kind = 3, "kind";
    /// No such peer, or this node itself.
    Source = 4, "source";
    /// No such link to that peer, or it arrived by another interface or transport.
    Link = 5, "link";
    /// The sender's MAC or IP address is not the configured one.
    Address = 6, "address";
    /// TTL or hop limit below what the link allows (RFC 5082).
    Hops = 7, "hops";
    /// No live key of that id.
    KeyId = 8, "key id";
    /// A sequence number taken before, or too old to tell.
    Replay = 9, "replay";
    /// The tag is wrong.
    Tag = 10, "tag";
    /// Authentic, but asks for features this program does not have.
    MustUnderstand = 11, "must-understand";
    /// From an earlier life of the peer.
    Incarnation = 12, "incarnation";
    /// Sent to another MAC or IP address than that of this end of the link: an answer would come from there.
    Destination = 13, "destination";
}

/// Counters a link keeps: one per refusal, at its code; code 0 counts authentic frames that were
/// not fresh and so changed nothing.
pub const COUNTERS: usize = 16;

const _: () = assert!(Refusal::ALL.len() < COUNTERS && COUNTERS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(*refusal as u8), Some(*refusal));
            assert!((*refusal as usize) < COUNTERS);
        }
        assert_eq!(Refusal::from_code(0), None);
    }
}
