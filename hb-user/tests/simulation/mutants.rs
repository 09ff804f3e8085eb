//! Engines that are wrong in one place.
//!
//! Production's engine is left alone: a mutant stands between it and the machine, and swaps, leaves out,
//! repeats or invents calls and completions. So what the machine sees is what it would see of an engine that
//! has its steps in another order, and no such engine can get into a build of `hb`.

mod clean;
mod fencing;
mod leaving;
mod looking;
mod starting;
mod storing;

pub(crate) use clean::{CleanedFirst, CleanedThoughNot, KeptUngated, WarmFirst};
pub(crate) use fencing::{
    AskedForNothing, FailureCounts, FencesHeard, FencesStale, ReportsFirst, ReportsTwice,
};
pub(crate) use leaving::{NoPart, NotedEarly, NotedFirst};
pub(crate) use looking::{LearnsUnheard, RecordsFirst, StampsUnanswered};
pub(crate) use starting::{
    GenerationUnstored, IncarnationUnstored, NoteKept, TermsFirst, VotersBelieved, VotersUnheard,
    VotersUnstored,
};
pub(crate) use storing::{
    BelievesAnyWrite, ForgetsEarly, LearnsEqual, ToldFirst, VowsFirst, WritesAtOnce,
};

use std::collections::BTreeMap;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Policy, Record, op::Order},
    maps::Peer,
};
use hb_user::{
    beginning::Begin,
    core::storage::Write,
    engine::controller::{
        self, Left, Sweep, World,
        start::{self, Found, Life, Numbers, Records},
    },
    id::{GroupId, NodeId},
};

use crate::{
    hands::Hands,
    leaving::Departure,
    plan::Plan,
    start::{Before, Birth, Struck},
};

type Outcome = Result<(), String>;

/// What stands between an engine and its machine; nothing, unless it is said otherwise.
pub(crate) trait Mutant {
    fn peer(&self, hands: &Hands<'_, '_>, peer: NodeId) -> Option<Peer> {
        hands.peer(peer)
    }

    fn record(&self, hands: &Hands<'_, '_>, group: GroupId) -> Option<Record> {
        hands.record(group)
    }

    fn order(&mut self, hands: &mut Hands<'_, '_>, order: Order) -> Option<Order> {
        hands.order(order)
    }

    fn fast_path_answers(&mut self, hands: &mut Hands<'_, '_>) -> bool {
        hands.fast_path_answers()
    }

    fn write(&mut self, hands: &mut Hands<'_, '_>, write: Write) {
        hands.write(write);
    }

    fn delay_fence(&mut self, hands: &mut Hands<'_, '_>, node: NodeId) {
        hands.delay_fence(node);
    }

    fn run_agent(
        &mut self,
        hands: &mut Hands<'_, '_>,
        node: NodeId,
        asked: &[(GroupId, Epoch)],
    ) -> Outcome {
        hands.run_agent(node, asked)
    }

    fn sweep(&mut self, hands: &mut Hands<'_, '_>, group: GroupId, number: u64) -> Sweep {
        hands.sweep(group, number)
    }

    fn cool(&mut self, hands: &mut Hands<'_, '_>, group: GroupId) {
        hands.cool(group);
    }

    /// What the disk says is about to be told.
    fn written(&mut self, result: Outcome) -> Outcome {
        result
    }

    /// The delay before a fence is over, which is about to be told.
    fn fence_due(&mut self, _: &Hands<'_, '_>) {}

    /// What an agent says is about to be told.
    fn agent(&mut self, result: Outcome) -> Outcome {
        result
    }

    /// What was ended is about to be told.
    fn swept(&mut self, result: Outcome) -> Outcome {
        result
    }

    /// The engine has taken a step.
    fn stepped(&mut self, _: &mut Hands<'_, '_>) {}

    /// Starts a life; returns it, and whether it is a learner's.
    fn start(
        &mut self,
        birth: &mut Birth<'_>,
        plan: &Plan,
        found: bool,
    ) -> Result<(Life, bool), Struck> {
        let (found, vows) = (birth.found(plan, found), birth.machine.disk.vows());
        let before = birth.before();
        start_with(birth, plan, found, &vows, &before)
    }

    fn leave(&mut self, departure: &mut Departure<'_>) -> Result<Left, ()> {
        controller::leave(departure)
    }
}

/// Starts a life with these hands. `before` is what of the records is there.
fn start_with<B: Numbers<Error = Struck> + Records<Error = Struck>>(
    birth: &mut B,
    plan: &Plan,
    found: Found,
    vows: &BTreeMap<GroupId, Epoch>,
    before: &Before,
) -> Result<(Life, bool), Struck> {
    let promises = plan.cluster.policy() != Policy::Available;
    let life = start::number(birth, found, &plan.voter_set(), promises)?;
    let Before { places, new_terms } = *before;
    let (beginning, fingerprints) = (life.beginning, plan.fingerprints());
    start::begin(birth, &Begin { beginning, places, fingerprints, new_terms })?;
    let groups = (0..plan.groups as u8).map(GroupId);
    let learner = start::take_up(birth, groups, vows)?;
    Ok((life, learner))
}

/// Nothing is wrong.
pub(crate) struct Sound;

impl Mutant for Sound {}
