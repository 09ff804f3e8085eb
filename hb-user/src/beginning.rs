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
