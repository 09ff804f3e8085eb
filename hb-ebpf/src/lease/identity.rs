//! Which group a record and a word are of: a fingerprint of what the group is, never a position.
//!
//! Two machines may have files whose groups are in another order, or are other groups. A word counts for
//! the record of the same fingerprint and for no other, wherever either lies. So a promise is always
//! about one set of addresses, and within one file no address is in two groups.

use super::record::Record;
use crate::wire::{GROUPS, GroupWord, State};

/// Returns where the word of the group with that fingerprint is, which is most often at `position`;
/// `None` if there is none, or the fingerprint is 0.
#[inline(always)]
#[must_use]
pub fn place_of(words: &[GroupWord; GROUPS], fingerprint: u32, position: usize) -> Option<usize> {
    if fingerprint == 0 {
        return None;
    }
    let position = position & (GROUPS - 1);
    if words[position].fingerprint.get() == fingerprint {
        return Some(position);
    }
    words.iter().position(|word| word.fingerprint.get() == fingerprint)
}

/// Returns that word itself.
#[must_use]
pub fn find(words: &[GroupWord; GROUPS], fingerprint: u32, position: usize) -> Option<&GroupWord> {
    place_of(words, fingerprint, position).map(|place| &words[place])
}

const _: () = assert!(GROUPS.is_power_of_two());

/// Makes the record that of no group, because the file has its group no more; tells whether it was one's.
///
/// Its gate closes, it hears and says nothing any more, and what it promised is in it still, for whoever
/// asks when that has run out. A group that begins after this, with whichever addresses, waits as after a
/// lost record, and so for all of it.
#[inline(always)]
pub fn dismiss(record: &mut Record, now: u64) -> bool {
    let was = record.fingerprint != 0;
    match record.state() {
        State::Holding => record.stop_holding(State::Idle, now),
        State::Seeking => record.leave(State::Idle),
        State::Idle | State::Released => {}
    }
    record.fencing = 0;
    record.fingerprint = 0;
    was
}

/// Where the groups of a file have their records, beside those of an earlier file.
///
/// Records never move. A group that both files have, by its fingerprint, keeps its record where it is;
/// another gets a place of which no group of the file keeps the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Place of each group, in the order of the file.
    at: [u8; GROUPS],
    /// How many groups the file has.
    count: u8,
    /// Places whose record goes on, as bits.
    kept: u8,
    /// Places whose record is of a group that the file does not have, as bits.
    dismissed: u8,
    /// Places of groups that begin, as bits.
    begun: u8,
}

impl Places {
    /// Returns the places of groups with the fingerprints `wanted`, each of which is not 0 and there
    /// once, at most [`GROUPS`] of them; `found` are those of the records, by place.
    #[must_use]
    pub fn new(found: &[u32; GROUPS], wanted: &[u32]) -> Self {
        let mut places = Self { at: [0; GROUPS], count: 0, kept: 0, dismissed: 0, begun: 0 };
        let wanted = || wanted.iter().copied().take(GROUPS).enumerate();
        for (index, wanted) in wanted() {
            places.count += 1;
            if let Some(place) = found.iter().position(|found| *found == wanted) {
                places.at[index] = place as u8;
                places.kept |= 1 << place;
            }
        }
        for (place, found) in found.iter().enumerate() {
            if *found != 0 && places.kept & 1 << place == 0 {
                places.dismissed |= 1 << place;
            }
        }
        for (index, wanted) in wanted() {
            if found.contains(&wanted) {
                continue;
            }
            let free = |place: &usize| (places.kept | places.begun) & 1 << place == 0;
            // As many places as groups: one is free.
            let place =
                Some(index).filter(free).or_else(|| (0..GROUPS).find(free)).unwrap_or(index);
            places.at[index] = place as u8;
            places.begun |= 1 << place;
        }
        places
    }

    /// Returns the place of the group at `index` in the file.
    #[must_use]
    pub fn of(&self, index: usize) -> Option<u8> {
        self.at.get(..usize::from(self.count))?.get(index).copied()
    }

    /// Returns the places whose record goes on.
    pub fn kept(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        places(self.kept)
    }

    /// Returns the places whose record is to be dismissed, all of them before any begins.
    pub fn dismissed(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        places(self.dismissed)
    }

    /// Returns the places whose group begins.
    pub fn begun(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        places(self.begun)
    }

    /// Returns the number of places up to the last that has a group.
    #[must_use]
    pub const fn end(&self) -> u8 {
        (u8::BITS - (self.kept | self.begun).leading_zeros()) as u8
    }
}

const _: () = assert!(GROUPS == u8::BITS as usize);

fn places(bits: u8) -> impl Iterator<Item = u8> + Clone {
    (0..GROUPS as u8).filter(move |place| bits & 1 << place != 0)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
