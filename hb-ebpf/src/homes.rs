//! How a witness lays out what it keeps of many clusters.
//!
//! Each cluster has a **home**: a number below [`HOMES`] that the witness chose when the cluster was
//! added, kept in the map `CLUSTERS` under the cluster's id. The maps `NODE` and `TERMS` are indexed
//! by home, `PEERS`, `KEYS`, `LOCKS` and `REFUSED` by [`member`], `LINKS` and `PATHS` by [`slot`],
//! and `GROUPS`, `RECORDS` and `LEASES` by [`record`].

use crate::{
    lease::{Terms, terms::MAX_VOTERS},
    maps::MAX_LINKS,
    refusal::Refusal,
    wire::GROUPS,
};

/// Clusters that one witness can serve.
pub const HOMES: usize = 128;
/// Places of one cluster: one for each voter, and the last for what names no voter.
pub const PLACES: usize = 8;
/// Members of all clusters.
pub const MEMBERS: usize = HOMES * PLACES;
/// Links to all members.
pub const SLOTS: usize = MEMBERS * MAX_LINKS;
/// Groups of all clusters.
pub const RECORDS: usize = HOMES * GROUPS;

/// The place whose counters are those of frames that name no voter or no link.
const NOWHERE: u32 = PLACES as u32 - 1;

const _: () = assert!(MAX_VOTERS < PLACES);

/// Returns the index of the voter at `place` of the cluster at `home`.
#[inline(always)]
#[must_use]
pub const fn member(home: u32, place: u32) -> u32 {
    home * PLACES as u32 + place
}

/// Returns the index of `link` to that voter.
#[inline(always)]
#[must_use]
pub const fn slot(home: u32, place: u32, link: u32) -> u32 {
    member(home, place) * MAX_LINKS as u32 + link
}

/// Returns the index of the record of `group` of the cluster at `home`.
#[inline(always)]
#[must_use]
pub const fn record(home: u32, group: u32) -> u32 {
    home * GROUPS as u32 + group
}

/// Returns the index of whose link a slot is.
#[inline(always)]
#[must_use]
pub const fn member_of(slot: u32) -> u32 {
    slot / MAX_LINKS as u32
}

/// Returns the home a slot belongs to.
#[inline(always)]
#[must_use]
pub const fn home_of(slot: u32) -> u32 {
    member_of(slot) / PLACES as u32
}

/// Returns the index of the counters of frames that name the cluster at `home` and no voter of it.
#[inline(always)]
#[must_use]
pub const fn nowhere(home: u32) -> u32 {
    member(home, NOWHERE)
}

/// Returns the slot of `source` and `link` at `home`, by the place of the source among the voters.
///
/// # Errors
///
/// [`Refusal::Source`] if it has no vote there, [`Refusal::Link`] if there is no such link.
#[inline(always)]
pub fn named(home: u32, terms: &Terms, source: u8, link: u8) -> Result<u32, Refusal> {
    let place = terms.place(source).ok_or(Refusal::Source)?;
    if link as usize >= MAX_LINKS {
        return Err(Refusal::Link);
    }
    Ok(slot(home, place as u32, link.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Policy, Timing};
    use std::vec;

    #[test]
    fn indexes_are_distinct_and_bounded() {
        let mut seen = vec![false; SLOTS];
        for home in 0..HOMES as u32 {
            for place in 0..PLACES as u32 {
                assert!((member(home, place) as usize) < MEMBERS);
                for link in 0..MAX_LINKS as u32 {
                    let slot = slot(home, place, link);
                    assert!(!core::mem::replace(&mut seen[slot as usize], true));
                    assert_eq!((home_of(slot), member_of(slot)), (home, member(home, place)));
                }
            }
            assert!((record(home, GROUPS as u32 - 1) as usize) < RECORDS);
            assert_eq!(home_of(nowhere(home) * MAX_LINKS as u32), home);
        }
    }

    #[test]
    fn only_voters_and_links_have_a_slot() {
        let timing = Timing {
            lease_ns: 2_000_000,
            margin_ns: 200_000,
            drain_ns: 300_000,
            seek_ns: 1_000_000,
            rho: 205,
            interval_ns: 100_000,
            deadtime_ns: 300_000,
            controller_deadtime_ns: 5_000_000,
        };
        let terms = Terms::new(Policy::Witness, &timing, &[7, 2, 64], 64, Some(64)).unwrap();
        let mut slots = std::collections::BTreeSet::new();
        for source in 0..=u8::MAX {
            for link in 0..=u8::MAX {
                match named(3, &terms, source, link) {
                    Ok(found) => {
                        assert!(terms.place(source).is_some() && usize::from(link) < MAX_LINKS);
                        assert_ne!(member_of(found), nowhere(3));
                        assert!(slots.insert(found));
                    }
                    Err(Refusal::Source) => assert_eq!(terms.place(source), None),
                    Err(refusal) => assert_eq!(refusal, Refusal::Link),
                }
            }
        }
        assert_eq!(slots.len(), usize::from(terms.count) * MAX_LINKS);
    }
}
