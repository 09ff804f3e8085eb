//! Epochs: numbers that grow at each change of a group's holder.

/// `(generation << 32) | (counter << 8) | node`.
///
/// The low eight bits name the node that sought the epoch, so no two nodes ever seek the same one.
/// Zero means "never held".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No holder yet.
    pub const NONE: Self = Self(0);

    /// Returns the smallest epoch of `generation`; everything a node seeks in it lies above.
    #[must_use]
    pub const fn floor(generation: u32) -> Self {
        Self((generation as u64) << 32)
    }

    /// Returns the generation: how often a voter started without its record.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the node that sought this epoch; 0 for [`Epoch::NONE`] and for a floor.
    #[must_use]
    pub const fn node(self) -> u8 {
        self.0 as u8
    }

    /// Tells whether this is a floor, or [`Epoch::NONE`]: a number that no node ever sought.
    #[must_use]
    pub const fn is_floor(self) -> bool {
        self.node() == 0
    }

    /// Returns the epoch that `node` seeks after having heard of `self`, or `None` when the
    /// number space is used up (2^56 changes of holder).
    #[must_use]
    pub const fn next(self, node: u8) -> Option<Self> {
        match (self.0 >> 8).checked_add(1) {
            Some(counter) if counter < 1 << 56 => Some(Self((counter << 8) | node as u64)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn next_is_above_and_names_its_node(raw in 0u64..u64::MAX >> 1, node in 1u8..) {
            let next = Epoch(raw).next(node).unwrap();
            prop_assert!(next > Epoch(raw));
            prop_assert_eq!(next.node(), node);
        }

        #[test]
        fn two_nodes_never_seek_the_same(raw in 0u64..u64::MAX >> 1, a in 1u8.., b in 1u8..) {
            prop_assume!(a != b);
            prop_assert_ne!(Epoch(raw).next(a), Epoch(raw).next(b));
        }
    }

    #[test]
    fn the_space_ends_without_wrapping() {
        assert_eq!(Epoch(u64::MAX).next(1), None);
        assert_eq!(Epoch::floor(7).generation(), 7);
        assert_eq!(Epoch::floor(7).node(), 0);
    }
}
