//! What a node has on its disk of what binds it, and what it wants there: the order of steps between
//! disk and record.
//!
//! The disk comes first. A record is told of a generation, begun with one, or bound without an end
//! only by what this says is stored. One thing is written at a time, by somebody else, who may take
//! as long as it takes: whatever is asked for meanwhile waits here, and the newest wish counts.

use std::{collections::BTreeMap, time::Duration};

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::Aside;
use crate::id::GroupId;

/// Before what failed is tried again; twice as long each time,
const RETRY: Duration = Duration::from_millis(100);
/// up to this.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// A disk that takes longer is told of.
const SLOW: Duration = Duration::from_secs(2);

/// Something to be made durable, whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The generation, unless a higher one is stored.
    Generation(u32),
    /// The set of voters this node takes part in.
    Voters(String),
    /// The epoch of a group that is promised without an end, or that none is.
    Vow(GroupId, Option<Epoch>),
    /// Of which groups this node stands aside.
    Aside(Aside),
}

/// Where something is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Generation,
    Voters,
    Vow(GroupId),
    Aside,
}

impl Write {
    const fn place(&self) -> Place {
        match self {
            Self::Generation(_) => Place::Generation,
            Self::Voters(_) => Place::Voters,
            Self::Vow(group, _) => Place::Vow(*group),
            Self::Aside(_) => Place::Aside,
        }
    }
}

/// What is to be told of a disk, once each time it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It does not take what is written, for this reason.
    Failed(String),
    /// It has not answered for so long.
    Slow(Duration),
    /// It takes what is written again.
    Mended,
}

/// The disk of one node, as far as records depend on it.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The highest generation stored, and wanted.
    generation: u32,
    wanted: u32,
    /// The highest one stored when this began.
    begun_with: u32,
    /// A set of voters that is wanted, and whether it is stored.
    voters: Option<(String, bool)>,
    /// What is promised without an end, as stored and as wanted.
    vows: BTreeMap<GroupId, Vow>,
    /// Of which groups this node stands aside, as stored and as wanted; `None` if it is being written or that
    /// failed, and nobody knows.
    stands_aside: Option<Aside>,
    wants_aside: Aside,
    under_way: Option<(Write, BootTime)>,
    failures: BTreeMap<Place, Failure>,
    told_slow: bool,
}

#[derive(Clone, Debug)]
struct Failure {
    error: String,
    /// When to try again, and how long to wait after that.
    due: BootTime,
    wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vow {
    /// `None` if it is being written or that failed, and nobody knows.
    stored: Option<Option<Epoch>>,
    wanted: Option<Epoch>,
}

impl Storage {
    /// A disk that holds this generation, 0 for none, these promises without an end, and of which groups
    /// this node stands aside.
    #[must_use]
    pub fn new(generation: u32, vows: &BTreeMap<GroupId, Epoch>, aside: Aside) -> Self {
        let vow = |epoch: &Epoch| Vow { stored: Some(Some(*epoch)), wanted: Some(*epoch) };
        Self {
            generation,
            wanted: generation,
            begun_with: generation,
            voters: None,
            vows: vows.iter().map(|(group, epoch)| (*group, vow(epoch))).collect(),
            stands_aside: Some(aside),
            wants_aside: aside,
            under_way: None,
            failures: BTreeMap::new(),
            told_slow: false,
        }
    }

    /// Returns the highest generation stored.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Wants the generation that a record has heard of stored; returns the one that this record may
    /// be told is, `None` as long as that would not help it.
    pub fn keep(&mut self, generation: u32) -> Option<u32> {
        self.wanted = self.wanted.max(generation);
        (self.generation >= generation).then_some(self.generation)
    }

    /// Wants a generation stored that was never this node's, for records that begin beside others; it is
    /// stored once [`keep`](Self::keep) returns it, or a higher one. `None` if all are used up.
    pub fn reserve(&mut self) -> Option<u32> {
        self.wanted = self.wanted.max(self.generation).checked_add(1)?;
        Some(self.wanted)
    }

    /// Wants a learner's numbers stored, who has heard of nothing at or above the generation
    /// `learned`, and the set of voters first where that is new: without it, a generation alone looks
    /// like one of an older version. Returns the generation that records begin with once all that is
    /// stored, above whatever this node knew itself, `None` until then.
    pub fn take_part(&mut self, voters: Option<&str>, learned: u32) -> Option<u32> {
        if let Some(set) = voters
            && self.voters.as_ref().is_none_or(|(wanted, _)| wanted != set)
        {
            self.voters = Some((set.to_owned(), false));
        }
        let generation = learned.max(self.begun_with.saturating_add(1));
        let stored = self.voters.as_ref().is_none_or(|(_, stored)| *stored);
        self.keep(generation).filter(|_| stored)
    }

    /// Wants stored that this epoch of a group is promised without an end; tells whether it is.
    pub fn vow(&mut self, group: GroupId, epoch: Epoch) -> bool {
        self.want_vow(group, Some(epoch));
        self.vows.get(&group).is_some_and(|vow| vow.stored == Some(Some(epoch)))
    }

    /// Wants stored that a group is not promised without an end, once the record is not.
    pub fn forget_vow(&mut self, group: GroupId) {
        self.want_vow(group, None);
    }

    /// Tells whether a promise of a group without an end is stored, perhaps, and wanted.
    #[must_use]
    pub fn has_vow(&self, group: GroupId) -> bool {
        self.vows.get(&group).is_some_and(|vow| vow.wanted.is_some())
    }

    /// Wants stored of which groups this node stands aside.
    pub fn stand_aside(&mut self, aside: Aside) {
        self.wants_aside = aside;
    }

    /// Returns of which groups this node stands aside, once what was wanted last is stored.
    #[must_use]
    pub fn aside(&self) -> Option<Aside> {
        self.stands_aside.filter(|stored| *stored == self.wants_aside)
    }

    fn want_vow(&mut self, group: GroupId, epoch: Option<Epoch>) {
        let none = Vow { stored: Some(None), wanted: None };
        self.vows.entry(group).or_insert(none).wanted = epoch;
    }

    /// Returns what is to be written now, to be answered by [`done`](Self::done); nothing while
    /// something is being written, or what failed is not due again.
    pub fn next(&mut self, now: BootTime) -> Option<Write> {
        if self.under_way.is_some() {
            return None;
        }
        let is_due = |write: &Write| {
            self.failures.get(&write.place()).is_none_or(|failure| now >= failure.due)
        };
        let write = self.missing().find(is_due)?;
        // Until it is answered it may be there or not.
        match write {
            Write::Aside(_) => self.stands_aside = None,
            Write::Vow(group, _) => {
                if let Some(vow) = self.vows.get_mut(&group) {
                    vow.stored = None;
                }
            }
            Write::Generation(_) | Write::Voters(_) => {}
        }
        self.under_way = Some((write.clone(), now));
        Some(write)
    }

    /// Returns what is wanted and not stored, and what others wait for first.
    fn missing(&self) -> impl Iterator<Item = Write> {
        let vows = |new: bool| {
            let unlike = self.vows.iter().filter(|(_, vow)| vow.stored != Some(vow.wanted));
            let those = unlike.filter(move |(_, vow)| vow.wanted.is_some() == new);
            those.map(|(group, vow)| Write::Vow(*group, vow.wanted))
        };
        let voters = match &self.voters {
            Some((set, false)) => Some(Write::Voters(set.clone())),
            _ => None,
        };
        let behind = self.wanted > self.generation;
        let generation = behind.then_some(Write::Generation(self.wanted));
        let aside = self.aside().is_none().then_some(Write::Aside(self.wants_aside));
        vows(true).chain(voters).chain(generation).chain(vows(false)).chain(aside)
    }

    /// Notes what came of the write under way; returns what is new about the disk.
    pub fn done(&mut self, result: Result<(), String>, now: BootTime) -> Option<News> {
        let (write, _) = self.under_way.take()?;
        let was_slow = std::mem::take(&mut self.told_slow);
        let place = write.place();
        let before = self.failures.remove(&place);
        if let Write::Vow(group, epoch) = write
            && let Some(vow) = self.vows.get_mut(&group)
        {
            vow.stored = result.is_ok().then_some(epoch);
        }
        if let Write::Aside(aside) = write {
            self.stands_aside = result.is_ok().then_some(aside);
        }
        if let Err(error) = result {
            let told = before.as_ref().is_some_and(|before| before.error == error);
            let wait = before.map_or(RETRY, |before| before.wait);
            let news = (!told).then(|| News::Failed(error.clone()));
            let (due, wait) = (now.after(wait), (wait * 2).min(RETRY_MOST));
            self.failures.insert(place, Failure { error, due, wait });
            return news;
        }
        match write {
            Write::Generation(generation) => self.generation = self.generation.max(generation),
            Write::Voters(set) => {
                if let Some((wanted, stored)) = &mut self.voters {
                    *stored |= *wanted == set;
                }
            }
            Write::Vow(..) | Write::Aside(_) => {}
        }
        (before.is_some() || was_slow).then_some(News::Mended)
    }

    /// Returns what is wrong with the disk at `now`, if something is.
    #[must_use]
    pub fn trouble(&self, now: BootTime) -> Option<News> {
        let failure = self.failures.values().next();
        let failed = failure.map(|failure| News::Failed(failure.error.clone()));
        failed.or_else(|| {
            let waited = now.since(self.under_way.as_ref()?.1);
            (waited >= SLOW).then_some(News::Slow(waited))
        })
    }

    /// Returns that the disk takes long, once for each thing that is written.
    pub fn look(&mut self, now: BootTime) -> Option<News> {
        let (_, since) = self.under_way.as_ref()?;
        let waited = now.since(*since);
        if self.told_slow || waited < SLOW {
            return None;
        }
        self.told_slow = true;
        Some(News::Slow(waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(0);
    const B: GroupId = GroupId(1);

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000 + ms * 1_000_000)
    }

    fn fresh(generation: u32) -> Storage {
        Storage::new(generation, &BTreeMap::new(), Aside::Nothing)
    }

    #[test]
    fn a_generation_is_told_to_no_record_before_it_is_stored() {
        let mut storage = fresh(3);
        assert_eq!(storage.keep(3), Some(3), "it was stored before");
        assert_eq!(storage.keep(5), None);
        assert_eq!(storage.next(at(0)), Some(Write::Generation(5)));
        assert_eq!(storage.keep(5), None, "it is being written");
        assert_eq!(storage.generation(), 3);
        assert_eq!(storage.done(Ok(()), at(150)), None);
        assert_eq!(storage.keep(5), Some(5));
        assert_eq!(storage.next(at(151)), None, "nothing is wanted");
    }

    #[test]
    fn a_vow_whose_removal_is_under_way_is_not_stored_any_more() {
        let mut storage = fresh(1);
        let epoch = Epoch(0x102);
        assert!(!storage.vow(A, epoch));
        assert_eq!(storage.next(at(0)), Some(Write::Vow(A, Some(epoch))));
        assert!(!storage.vow(A, epoch), "it is being written");
        storage.done(Ok(()), at(1));
        assert!(storage.vow(A, epoch));
        storage.forget_vow(A);
        assert_eq!(storage.next(at(2)), Some(Write::Vow(A, None)));
        assert!(!storage.vow(A, epoch), "the disk is about to lose it");
        storage.done(Ok(()), at(3));
        assert!(!storage.vow(A, epoch));
        assert_eq!(storage.next(at(4)), Some(Write::Vow(A, Some(epoch))));
        storage.done(Ok(()), at(5));
        assert!(storage.vow(A, epoch));
    }

    #[test]
    fn several_groups_want_one_generation_and_a_later_one_follows() {
        let mut storage = fresh(1);
        assert_eq!((storage.keep(2), storage.keep(2)), (None, None));
        assert_eq!(storage.next(at(0)), Some(Write::Generation(2)));
        assert_eq!((storage.keep(4), storage.keep(2), storage.keep(3)), (None, None, None));
        assert_eq!(storage.next(at(1)), None, "one thing is written at a time");
        storage.done(Ok(()), at(2));
        assert_eq!((storage.keep(2), storage.keep(4)), (Some(2), None));
        assert_eq!(storage.next(at(2)), Some(Write::Generation(4)));
        storage.done(Ok(()), at(3));
        assert_eq!((storage.keep(4), storage.keep(2)), (Some(4), Some(4)));
    }

    #[test]
    fn a_node_stands_aside_once_that_is_stored_and_by_the_newest_wish() {
        let mut storage = fresh(1);
        assert_eq!(storage.aside(), Some(Aside::Nothing));
        storage.stand_aside(Aside::All);
        assert_eq!(storage.aside(), None);
        assert_eq!(storage.next(at(0)), Some(Write::Aside(Aside::All)));
        storage.stand_aside(Aside::Nothing);
        assert_eq!(storage.aside(), None, "the other one may be there by now");
        storage.stand_aside(Aside::Local);
        assert_eq!(storage.done(Ok(()), at(1)), None);
        assert_eq!(storage.aside(), None, "what is stored is an older wish");
        assert_eq!(storage.next(at(1)), Some(Write::Aside(Aside::Local)));
        storage.done(Ok(()), at(2));
        assert_eq!((storage.aside(), storage.next(at(2))), (Some(Aside::Local), None));
    }

    #[test]
    fn what_a_failed_write_left_of_it_nobody_knows() {
        let mut storage = fresh(1);
        storage.stand_aside(Aside::All);
        assert!(storage.next(at(0)).is_some());
        assert!(storage.done(Err("disk full".to_owned()), at(1)).is_some());
        // It may be there all the same, after a restart.
        storage.stand_aside(Aside::Nothing);
        assert_eq!((storage.aside(), storage.next(at(1))), (None, None));
        assert_eq!(storage.next(at(101)), Some(Write::Aside(Aside::Nothing)));
        assert_eq!(storage.done(Ok(()), at(102)), Some(News::Mended));
        assert_eq!(storage.aside(), Some(Aside::Nothing));
    }

    #[test]
    fn what_failed_is_not_stored_is_told_once_and_tried_again_ever_later() {
        let mut storage = fresh(1);
        storage.keep(2);
        let mut now = 0;
        let mut tries = Vec::new();
        for attempt in 0..9 {
            while storage.next(at(now)).is_none() {
                now += 50;
            }
            tries.push(now);
            let news = storage.done(Err("disk full".to_owned()), at(now));
            let told = (attempt == 0).then(|| News::Failed("disk full".to_owned()));
            assert_eq!(news, told, "attempt {attempt}");
            assert_eq!(storage.keep(2), None);
        }
        let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!(storage.next(at(now + 5000)).is_some());
        let news = storage.done(Err("read-only".to_owned()), at(now + 5001));
        assert_eq!(news, Some(News::Failed("read-only".to_owned())), "another reason is told");
        assert!(storage.next(at(now + 20_000)).is_some());
        assert_eq!(storage.done(Ok(()), at(now + 20_001)), Some(News::Mended));
        assert_eq!(storage.keep(2), Some(2));
    }

    #[test]
    fn what_cannot_be_written_keeps_nothing_else_from_the_disk() {
        let mut storage = fresh(1);
        storage.vow(A, Epoch(8));
        storage.keep(2);
        assert_eq!(storage.next(at(0)), Some(Write::Vow(A, Some(Epoch(8)))));
        assert!(storage.done(Err("no file".to_owned()), at(1)).is_some());
        assert_eq!(storage.next(at(1)), Some(Write::Generation(2)));
        assert_eq!(storage.done(Ok(()), at(2)), None, "the other file is as bad as before");
        assert_eq!(storage.trouble(at(2)), Some(News::Failed("no file".to_owned())));
        assert_eq!(storage.next(at(2)), None);
        assert!(storage.next(at(101)).is_some());
        assert_eq!(storage.done(Err("no file".to_owned()), at(101)), None);
    }

    #[test]
    fn a_disk_that_hangs_is_told_of_once() {
        let mut storage = fresh(1);
        assert_eq!(storage.look(at(0)), None);
        storage.keep(2);
        storage.next(at(0));
        assert_eq!(storage.look(at(1999)), None);
        assert_eq!(storage.look(at(2000)), Some(News::Slow(Duration::from_secs(2))));
        assert_eq!(storage.look(at(9000)), None);
        assert_eq!(storage.trouble(at(9000)), Some(News::Slow(Duration::from_secs(9))));
        assert_eq!(storage.keep(2), None);
        assert_eq!(storage.done(Ok(()), at(9500)), Some(News::Mended));
        storage.keep(3);
        storage.next(at(9500));
        assert_eq!(storage.look(at(11_500)), Some(News::Slow(Duration::from_secs(2))));
    }

    #[test]
    fn a_learner_takes_part_above_all_it_knew_and_heard_of_with_its_voters_stored_first() {
        // Its disk is lost: it starts above what it has heard of.
        let mut storage = fresh(0);
        assert_eq!(storage.take_part(None, 4), None);
        assert_eq!(storage.next(at(0)), Some(Write::Generation(4)));
        // Something newer was heard of meanwhile, which must not be forgotten by the start.
        storage.done(Ok(()), at(1));
        assert_eq!(storage.take_part(None, 6), None);
        assert_eq!(storage.next(at(1)), Some(Write::Generation(6)));
        storage.done(Ok(()), at(2));
        assert_eq!(storage.take_part(None, 6), Some(6));

        // Its voters are new, and it knows a higher number itself.
        let mut storage = fresh(9);
        assert_eq!(storage.take_part(Some("1 2 w"), 4), None);
        assert_eq!(storage.next(at(0)), Some(Write::Voters("1 2 w".to_owned())));
        assert_eq!(storage.next(at(0)), None);
        storage.done(Ok(()), at(1));
        assert_eq!(storage.take_part(Some("1 2 w"), 4), None);
        assert_eq!(storage.next(at(1)), Some(Write::Generation(10)));
        storage.done(Ok(()), at(2));
        assert_eq!(storage.take_part(Some("1 2 w"), 4), Some(10));
        assert_eq!(storage.take_part(Some("1 2 w"), 4), Some(10), "asked for again");

        // A set that was not stored keeps it out, whatever its generation is.
        let mut storage = fresh(9);
        storage.keep(20);
        storage.next(at(0));
        storage.done(Ok(()), at(0));
        assert_eq!(storage.take_part(Some("1 2"), 4), None);
        storage.next(at(0));
        storage.done(Err("disk full".to_owned()), at(1));
        assert_eq!(storage.take_part(Some("1 2"), 4), None);
    }

    #[test]
    fn a_promise_without_an_end_is_stored_before_it_is_given_and_gone_after_it_ended() {
        let earlier = BTreeMap::from([(B, Epoch(7))]);
        let mut storage = Storage::new(1, &earlier, Aside::Nothing);
        assert!(storage.vow(B, Epoch(7)) && storage.has_vow(B) && !storage.has_vow(A));
        storage.keep(5);
        assert!(!storage.vow(A, Epoch(8)));
        assert_eq!(storage.next(at(0)), Some(Write::Vow(A, Some(Epoch(8)))), "who leaves waits");
        // The holder took another number meanwhile.
        assert!(!storage.vow(A, Epoch(9)));
        storage.done(Ok(()), at(1));
        assert!(!storage.vow(A, Epoch(9)));
        assert_eq!(storage.next(at(1)), Some(Write::Vow(A, Some(Epoch(9)))));
        storage.done(Ok(()), at(2));
        assert!(storage.vow(A, Epoch(9)));

        storage.forget_vow(A);
        storage.forget_vow(B);
        assert!(!storage.has_vow(A) && !storage.has_vow(B));
        assert_eq!(storage.next(at(2)), Some(Write::Generation(5)));
        storage.done(Ok(()), at(3));
        assert_eq!(storage.next(at(3)), Some(Write::Vow(A, None)));
        storage.done(Ok(()), at(4));
        assert_eq!(storage.next(at(4)), Some(Write::Vow(B, None)));
        storage.done(Ok(()), at(5));
        assert_eq!(storage.next(at(5)), None);
    }

    #[test]
    fn a_promise_whose_write_failed_is_neither_given_nor_taken_for_gone() {
        let mut storage = fresh(1);
        storage.vow(A, Epoch(8));
        storage.next(at(0));
        storage.done(Err("it hung".to_owned()), at(1));
        assert!(!storage.vow(A, Epoch(8)));
        storage.forget_vow(A);
        assert_eq!(storage.next(at(500)), Some(Write::Vow(A, None)), "it may be there");
    }
}
