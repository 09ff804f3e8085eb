//! A start: what is on the disk before the first frame of a life, and what comes before what until its
//! records have begun.
//!
//! Each step is durable, or one change under a record's lock, when it returns. A start that ends between any
//! two of them, or fails, is what the next one finds.

use std::collections::BTreeMap;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        op::{Op, Order},
        start,
    },
    time::BootTime,
};

use crate::{
    beginning::{Begin, Beginning, Origin, Step, Traces},
    id::GroupId,
};

/// The numbers of a node that outlive it.
pub trait Numbers {
    /// Why one cannot be read or stored.
    type Error;

    /// Stores and returns an incarnation above the stored one and `earlier`.
    ///
    /// # Errors
    ///
    /// Then it is not known whether it is stored.
    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, Self::Error>;

    /// Takes the note of a clean stop away, for good, and returns what it said.
    ///
    /// # Errors
    ///
    /// Then it may be there still.
    fn take_note(&mut self) -> Result<Option<BootTime>, Self::Error>;

    /// Returns the set of voters that this node took part in last.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn voters(&mut self) -> Result<Option<String>, Self::Error>;

    /// Stores the set of voters that this node takes part in.
    ///
    /// # Errors
    ///
    /// Then it is not known whether it is stored.
    fn store_voters(&mut self, set: &str) -> Result<(), Self::Error>;

    /// Returns the generation that is stored, 0 for none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn generation(&mut self) -> Result<u32, Self::Error>;

    /// Stores and returns the next generation.
    ///
    /// # Errors
    ///
    /// Then it is not known whether it is stored.
    fn reserve_generation(&mut self) -> Result<u32, Self::Error>;
}

/// What a start finds in its machine.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// There are records of this boot.
    pub records: bool,
    /// The incarnation of the life before, 0 for none.
    pub incarnation: u32,
    /// One of the records knows nothing but what it is told.
    pub learns: bool,
    /// Groups of the configuration have no record.
    pub lacks: bool,
}

/// What a life begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its number.
    pub incarnation: u32,
    /// How its records begin.
    pub beginning: Beginning,
    /// A set of voters that this node has not taken part in yet, and must not by itself.
    pub new_voters: Option<String>,
}

/// Gives a life its numbers. `voters` is the set of the configuration; `promises` tells whether its policy
/// has any.
///
/// # Errors
///
/// If something cannot be stored or read: there is no such life then.
pub fn number<N: Numbers>(
    numbers: &mut N,
    found: Found,
    voters: &str,
    promises: bool,
) -> Result<Life, N::Error> {
    let earlier = if found.records { found.incarnation } else { 0 };
    let incarnation = numbers.reserve_incarnation(earlier)?;
    // Gone before anything is promised anew, and never believed twice.
    let parted = numbers.take_note()?;
    let new_voters = new_voters(numbers, voters, promises)?;
    let traces = Traces {
        stored: numbers.generation()?,
        records: found.records,
        learns: found.learns,
        lacks: found.lacks,
        new_voters: new_voters.is_some(),
        promises,
    };
    let beginning = match traces.origin() {
        Origin::Found => Beginning::Found(None),
        Origin::Extended => Beginning::Found(Some(numbers.reserve_generation()?)),
        Origin::New => Beginning::New(numbers.reserve_generation()?, parted),
        Origin::Lost => Beginning::Lost,
    };
    Ok(Life { incarnation, beginning, new_voters })
}

/// Returns the set of voters, if this node has not taken part in it and must not do so by itself:
/// until every machine goes by it, a majority of the old set may exist beside one of the new.
fn new_voters<N: Numbers>(
    numbers: &mut N,
    set: &str,
    promises: bool,
) -> Result<Option<String>, N::Error> {
    let known = numbers.voters()?;
    if known.as_deref() == Some(set) {
        return Ok(None);
    }
    // Without promises each node decides by itself; and a version before this file was wrote none.
    if !promises || (known.is_none() && numbers.generation()? != 0) {
        numbers.store_voters(set)?;
        return Ok(None);
    }
    Ok(Some(set.to_owned()))
}

/// The records of a machine that starts.
pub trait Records {
    /// Why something cannot be changed.
    type Error;

    /// Asks for a change of a record.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    fn order(&mut self, order: Order) -> Result<Order, Self::Error>;

    /// Puts the terms of the configuration in the place of those that are there.
    ///
    /// # Errors
    ///
    /// Then the old ones may be there still.
    fn set_terms(&mut self) -> Result<(), Self::Error>;

    /// Gives each address to its group.
    ///
    /// # Errors
    ///
    /// Then some may be as before.
    fn set_addresses(&mut self) -> Result<(), Self::Error>;
}

/// Has the records begin. What was done when something fails is what the next try finds.
///
/// # Errors
///
/// The first that the kernel says.
pub fn begin<R: Records>(records: &mut R, begin: &Begin) -> Result<(), R::Error> {
    for step in begin.steps() {
        match step {
            Step::Order(order) => drop(records.order(order)?),
            Step::Terms => records.set_terms()?,
            Step::Addresses => records.set_addresses()?,
        }
    }
    Ok(())
}

/// Takes up what an earlier life left to do of the groups; `vows` are the epochs promised without an
/// end, by what is on the disk. Returns whether this node is a learner.
///
/// # Errors
///
/// The first that the kernel says.
pub fn take_up<R: Records>(
    records: &mut R,
    groups: impl IntoIterator<Item = GroupId>,
    vows: &BTreeMap<GroupId, Epoch>,
) -> Result<bool, R::Error> {
    let mut learner = false;
    for group in groups {
        // An agent of an earlier daemon has nobody to report to.
        records.order(Order::new(Op::FenceFailed, group.0))?;
        let vow = vows.get(&group).copied().unwrap_or(Epoch::NONE);
        let order = Order { epoch: vow.0, ..Order::new(Op::Rejoin, group.0) };
        // Also of an earlier daemon that did not live to see it confirmed.
        learner |= start::is_learner(&records.order(order)?.record);
    }
    Ok(learner)
}
