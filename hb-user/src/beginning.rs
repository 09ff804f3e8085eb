//! How the records of a kernel half begin: step by step, beside those of an earlier file.
//!
//! A daemon, or the command of a witness, may find records of groups that its configuration has not,
//! or not with these addresses. What is done about that is a list of steps, each of which is one change
//! that the kernel makes at once. Between any two of them frames arrive, packets meet the gate, and the
//! process may be killed; the next start then makes its list of what it finds.

use hb_ebpf::{
    lease::{
        identity::Places,
        op::{Op, Order},
    },
    time::BootTime,
    wire::GROUPS,
};

/// Where the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// They were found. Those of groups that the configuration has as well go on. A group that has none
    /// begins at this generation, which was reserved on the disk; as a learner if there is none.
    Found(Option<u32>),
    /// There were none; this generation was reserved on the disk for the new ones. What an earlier
    /// life promised had run out by then, if it left in order and said so.
    New(u32, Option<BootTime>),
    /// There were none, and neither was there a state directory; or the voters are others now, and
    /// what this machine knows of the old ones must not help it among the new.
    Lost,
}

/// What a start of a node finds beside its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The generation on the disk; 0 for none.
    pub stored: u32,
    /// There are records of this boot.
    pub records: bool,
    /// One of them knows nothing but what it is told.
    pub learns: bool,
    /// Groups of the configuration have no record.
    pub lacks: bool,
    /// The node took part with other voters last.
    pub new_voters: bool,
    /// The policy has promises.
    pub promises: bool,
}

/// How a [`Beginning`] comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`Beginning::Found`], without a generation.
    Found,
    /// [`Beginning::Found`], with one that is to be reserved.
    Extended,
    /// [`Beginning::New`], with one that is to be reserved.
    New,
    /// [`Beginning::Lost`].
    Lost,
}

impl Traces {
    /// Returns how the node begins.
    #[must_use]
    pub const fn origin(self) -> Origin {
        let Self { stored, records, learns, lacks, new_voters, promises } = self;
        if new_voters {
            Origin::Lost
        } else if records {
            // A group that is added to records without a number learns, as they do.
            let learner = learns || (stored == 0 && promises);
            if lacks && !learner { Origin::Extended } else { Origin::Found }
        } else if stored == 0 && promises {
            // Promises of a life that left no number may bind still; without promises there are none.
            Origin::Lost
        } else {
            Origin::New
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of a record.
    Order(Order),
    /// The terms of the configuration take the place of those that are there.
    Terms,
    /// Each address is given to its group from now on.
    Addresses,
}

/// The groups of a configuration beside the records of a kernel half.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// Where the records come from.
    pub beginning: Beginning,
    /// Where each group has its record.
    pub places: Places,
    /// What the groups are, by place.
    pub fingerprints: [u32; GROUPS],
    /// Whether the terms are others than those that are there.
    pub new_terms: bool,
}

impl Begin {
    /// Returns the steps, in their order:
    ///
    /// 1. Records of groups that the configuration does not have are dismissed, and their gates close.
    ///    From here on nothing is promised for them.
    /// 2. By the old terms, everything promised is held for as long as they ask, and groups without a
    ///    record begin, blocked for as long as any promise of step 1 can bind.
    /// 3. The new terms; then everything is held for as long as those ask.
    /// 4. The addresses. None comes to a group whose gate is open: a group that is as before has the
    ///    addresses it had, and every other one is blocked.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let order = |op| move |place| Step::Order(Order::new(op, place));
        let (kept, begun) = (|| self.places.kept(), || self.places.begun());
        let found = matches!(self.beginning, Beginning::Found(_));
        steps.extend(self.places.dismissed().map(order(Op::Dismiss)));
        match self.beginning {
            Beginning::Lost => steps.extend(kept().map(order(Op::Learner))),
            Beginning::Found(_) if self.new_terms => {
                steps.extend(kept().map(order(Op::TermsChanged)));
            }
            _ => {}
        }
        if found {
            steps.extend(begun().map(|place| self.start(place)));
        }
        if self.new_terms {
            steps.push(Step::Terms);
        }
        if !found {
            // Also those that a first start left which did not come to its end.
            steps.extend(kept().chain(begun()).map(|place| self.start(place)));
        } else if self.new_terms {
            steps.extend(kept().chain(begun()).map(order(Op::TermsChanged)));
        }
        steps.push(Step::Addresses);
        steps
    }

    /// Has a group begin.
    fn start(&self, place: u8) -> Step {
        let fingerprint = self.fingerprints[usize::from(place) % GROUPS];
        let (op, generation, parted) = match self.beginning {
            Beginning::Found(Some(generation)) => (Op::Start, generation, None),
            Beginning::New(generation, parted) => (Op::Start, generation, parted),
            Beginning::Found(None) | Beginning::Lost => (Op::Learner, 0, None),
        };
        Step::Order(Order {
            fingerprint,
            generation,
            now_ns: parted.map_or(0, BootTime::ns),
            // Whatever had its addresses may have served a moment ago.
            node: matches!(self.beginning, Beginning::Found(_)).into(),
            ..Order::new(op, place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that never ran.
    const NOTHING: Traces = Traces {
        stored: 0,
        records: false,
        learns: false,
        lacks: true,
        new_voters: false,
        promises: true,
    };

    #[test]
    fn without_records_only_a_number_on_the_disk_allows_promises() {
        assert_eq!(NOTHING.origin(), Origin::Lost);
        assert_eq!(Traces { stored: 1, ..NOTHING }.origin(), Origin::New);
        assert_eq!(Traces { promises: false, ..NOTHING }.origin(), Origin::New);
    }

    #[test]
    fn a_group_that_is_added_has_a_generation_only_beside_records_that_have_one() {
        let found = Traces { stored: 7, records: true, ..NOTHING };
        assert_eq!(found.origin(), Origin::Extended);
        assert_eq!(Traces { lacks: false, ..found }.origin(), Origin::Found);
        assert_eq!(Traces { learns: true, ..found }.origin(), Origin::Found);
        assert_eq!(Traces { stored: 0, ..found }.origin(), Origin::Found);
        assert_eq!(Traces { stored: 0, promises: false, ..found }.origin(), Origin::Extended);
    }

    #[test]
    fn what_was_known_of_other_voters_helps_nowhere() {
        for records in [false, true] {
            for stored in [0, 7] {
                let traces = Traces { new_voters: true, records, stored, ..NOTHING };
                assert_eq!(traces.origin(), Origin::Lost);
            }
        }
    }
}
