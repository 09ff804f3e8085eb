//! The end of a clean stop: what is this node's goes, and its next start is told what it promised.

use hb_ebpf::{
    lease::op::{DONE, Op, Order},
    time::BootTime,
    wire::GROUPS,
};

/// What a node that leaves has in its hands.
pub trait Parting {
    /// Why something is not taken away.
    type Error;

    /// Takes away what is this node's: addresses, connections to them, pins and the gate. Nobody finds
    /// the records any more but by [`order`](Self::order). Tells whether that reaches them.
    ///
    /// # Errors
    ///
    /// Then pins and gate may be where they were.
    fn take_away(&mut self) -> Result<bool, Self::Error>;

    /// Asks for a change of a record.
    ///
    /// # Errors
    ///
    /// Why not, for people.
    fn order(&mut self, order: Order) -> Result<Order, String>;

    /// Leaves a note, durably, that all that was promised has run out by then.
    ///
    /// # Errors
    ///
    /// Why not, for people.
    fn note(&mut self, end: BootTime) -> Result<(), String>;
}

/// What a clean stop leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// A note.
    Noted(BootTime),
    /// None, since not of every record it is known when its promises have run out.
    Unknown,
    /// None, for this reason.
    Unnoted(String),
}

/// Leaves.
///
/// # Errors
///
/// If something stays.
pub fn leave<P: Parting>(world: &mut P) -> Result<Left, P::Error> {
    // Not before the pins are gone: a daemon that found these records would take no part.
    if !world.take_away()? {
        return Ok(Left::Unknown);
    }
    Ok(match part(world) {
        Ok(None) => Left::Unknown,
        Ok(Some(end)) => match world.note(end) {
            Ok(()) => Left::Noted(end),
            Err(why) => Left::Unnoted(why),
        },
        Err(why) => Left::Unnoted(why),
    })
}

/// Ends the part of all records, which are about to be gone, those of earlier configurations as well.
/// Returns when everything they promised has run out; `None` if that is not known of each.
fn part(world: &mut impl Parting) -> Result<Option<BootTime>, String> {
    let mut latest = Some(BootTime::NEVER);
    for group in 0..GROUPS as u8 {
        let answer = world.order(Order::new(Op::Part, group))?;
        let end = (answer.code == DONE).then_some(BootTime(answer.now_ns));
        latest = latest.zip(end).map(|(latest, end)| latest.max(end));
    }
    Ok(latest)
}
