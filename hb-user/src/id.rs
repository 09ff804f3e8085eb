//! Small numbers that must not be mixed up.

use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($word:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u8);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    )*};
}

ids! {
    /// A node of the cluster, 1 to [`hb_ebpf::maps::MAX_NODES`]; also its rank: lower goes first.
    NodeId("node");
    /// A link, from 0 in the order of the configuration.
    LinkId("link");
    /// A group, by the place of its record on this machine; also that of its word in this machine's frames.
    /// Other machines may have it at another place.
    GroupId("group");
}
