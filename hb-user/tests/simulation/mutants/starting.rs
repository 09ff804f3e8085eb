//! What a life begins with, and voters that are new to it.

use hb_ebpf::{lease::op::Order, maps::Peer, time::BootTime};
use hb_user::{
    core::storage::Write,
    engine::controller::{
        World,
        start::{Life, Numbers, Records},
    },
    id::NodeId,
};

use super::{Mutant, start_with};
use crate::{
    hands::Hands,
    plan::Plan,
    start::{Birth, Struck},
};

/// What is left out of a start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Omitted {
    Note,
    Incarnation,
    Generation,
    Voters,
    OldTerms,
}

struct Hasty<'a, 'b> {
    birth: &'a mut Birth<'b>,
    omitted: Omitted,
    voters: String,
}

impl Numbers for Hasty<'_, '_> {
    type Error = Struck;

    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, Struck> {
        if self.omitted == Omitted::Incarnation {
            return Ok(self.birth.machine.disk.incarnation.max(earlier) + 1);
        }
        self.birth.reserve_incarnation(earlier)
    }

    fn take_note(&mut self) -> Result<Option<BootTime>, Struck> {
        if self.omitted == Omitted::Note {
            return Ok(self.birth.machine.disk.parted.map(BootTime));
        }
        self.birth.take_note()
    }

    fn voters(&mut self) -> Result<Option<String>, Struck> {
        if self.omitted == Omitted::Voters {
            return Ok(Some(self.voters.clone()));
        }
        self.birth.voters()
    }

    fn store_voters(&mut self, set: &str) -> Result<(), Struck> {
        self.birth.store_voters(set)
    }

    fn generation(&mut self) -> Result<u32, Struck> {
        self.birth.generation()
    }

    fn reserve_generation(&mut self) -> Result<u32, Struck> {
        if self.omitted == Omitted::Generation {
            return Ok(self.birth.machine.disk.generation + 1);
        }
        self.birth.reserve_generation()
    }
}

impl Records for Hasty<'_, '_> {
    type Error = Struck;

    fn order(&mut self, order: Order) -> Result<Order, Struck> {
        if self.omitted == Omitted::OldTerms {
            self.birth.set_terms()?;
        }
        self.birth.order(order)
    }

    fn set_terms(&mut self) -> Result<(), Struck> {
        self.birth.set_terms()
    }

    fn set_addresses(&mut self) -> Result<(), Struck> {
        self.birth.set_addresses()
    }
}

/// Defines an engine whose starts leave something out.
macro_rules! hasty {
    ($(#[$doc:meta] $name:ident: $omitted:ident;)*) => {
        $(#[$doc]
        pub(crate) struct $name;

        impl Mutant for $name {
            fn start(
                &mut self,
                birth: &mut Birth<'_>,
                plan: &Plan,
                found: bool,
            ) -> Result<(Life, bool), Struck> {
                let (found, vows) = (birth.found(plan, found), birth.machine.disk.vows());
                let kernel = birth.before();
                let voters = plan.voter_set();
                let mut hasty = Hasty { birth, omitted: Omitted::$omitted, voters };
                start_with(&mut hasty, plan, found, &vows, &kernel)
            }
        })*
    };
}

hasty! {
    /// The note of a clean stop stays where it is.
    NoteKept: Note;
    /// The number of a life is not stored.
    IncarnationUnstored: Incarnation;
    /// Nor is the generation that its records begin with.
    GenerationUnstored: Generation;
    /// Voters that are new are taken for known.
    VotersBelieved: Voters;
    /// The new lengths of leases are there before what was promised by the old ones is held to these.
    TermsFirst: OldTerms;
}

/// A learner among new voters takes part, and those are not stored.
pub(crate) struct VotersUnstored;

impl Mutant for VotersUnstored {
    fn write(&mut self, hands: &mut Hands<'_, '_>, write: Write) {
        match write {
            Write::Voters(_) => hands.write(Write::Generation(0)),
            write => hands.write(write),
        }
    }
}

/// A learner among new voters takes part whatever the others go by.
pub(crate) struct VotersUnheard;

impl Mutant for VotersUnheard {
    fn peer(&self, hands: &Hands<'_, '_>, peer: NodeId) -> Option<Peer> {
        let config_hash = hands.config_hash();
        hands.peer(peer).map(|peer| Peer { config_hash, ..peer })
    }
}
