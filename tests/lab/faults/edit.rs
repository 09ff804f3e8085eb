//! Configurations that change between two starts: on one node first, later on the other machines.

use anyhow::Result;

use super::restart;
use crate::{
    Lab,
    addresses::{Machine, NODES, vip4, vip6},
    config::{Group, Settings},
};

/// What is different in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The groups are in another order.
    Reorder,
    /// A group comes before all others.
    Insert,
    /// The first group is gone.
    Delete,
    /// An address of the first group is in the last one.
    Move,
    /// An address of the first group is gone.
    Drop,
    /// Lengths are others.
    Lengths,
}

/// All.
pub const CHANGES: [Change; 6] =
    [Change::Reorder, Change::Insert, Change::Delete, Change::Move, Change::Drop, Change::Lengths];

/// A changed file, and how a daemon comes to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What is different.
    pub change: Change,
    /// Whether the daemons are killed and started over what they left, rather than stopped in order.
    pub in_place: bool,
    /// Whether the witness, where there is one, gets the file before the second node does.
    pub witness_first: bool,
}

impl Change {
    const fn name(self) -> &'static str {
        match self {
            Self::Reorder => "groups in another order",
            Self::Insert => "a group inserted",
            Self::Delete => "a group deleted",
            Self::Move => "an address moved to another group",
            Self::Drop => "an address deleted",
            Self::Lengths => "other lengths",
        }
    }

    /// Returns a file that is different in this.
    #[must_use]
    pub fn of(self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        let groups = &mut settings.groups;
        match self {
            Self::Reorder => groups.reverse(),
            Self::Insert => {
                let addresses = vec![vip4(INSERTED).into(), vip6(INSERTED).into()];
                groups.insert(0, Group { name: "new", preferred: Machine::A, addresses });
            }
            Self::Delete => drop(groups.remove(0)),
            Self::Move => {
                let moved = groups.first_mut().and_then(|group| group.addresses.pop());
                if let Some(last) = groups.last_mut() {
                    last.addresses.extend(moved);
                }
            }
            Self::Drop => {
                if let Some(group) = groups.first_mut() {
                    group.addresses.remove(0);
                }
            }
            Self::Lengths => {
                settings.misses += settings.misses / 2;
                settings.initdead = longer(&settings.initdead);
                settings.controller_deadtime = longer(&settings.controller_deadtime);
                settings.lease = settings.lease.as_deref().map(longer);
            }
        }
        settings
    }
}

/// Number of the addresses of a group that is inserted.
const INSERTED: u8 = 2;

/// Returns a duration half as long again, in whatever unit it is spelled.
fn longer(duration: &str) -> String {
    let digits = duration.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = duration.split_at(digits);
    let number: u64 = number.parse().unwrap_or_default();
    format!("{}{unit}", number + number / 2)
}

impl Edit {
    pub(super) fn describe(self) -> String {
        let way = if self.in_place { "killed and started" } else { "stopped and started" };
        format!("{}, {way}", self.change.name())
    }

    pub(super) fn inject(self, lab: &mut Lab, node: Machine) -> Result<()> {
        let changed = self.change.of(lab.settings());
        lab.edit(node, Some(&changed))?;
        self.restart(lab, node)
    }

    pub(super) fn mend(self, lab: &mut Lab, node: Machine) -> Result<()> {
        let changed = self.change.of(lab.settings());
        if self.witness_first {
            edit_witness(lab, Some(&changed))?;
        }
        lab.edit(node.peer(), Some(&changed))?;
        self.restart(lab, node.peer())?;
        if self.witness_first { Ok(()) } else { edit_witness(lab, Some(&changed)) }
    }

    fn restart(self, lab: &mut Lab, node: Machine) -> Result<()> {
        if self.in_place { restart::in_place(lab, node) } else { restart::in_order(lab, node) }
    }
}

fn edit_witness(lab: &mut Lab, settings: Option<&Settings>) -> Result<()> {
    if lab.has_witness() {
        lab.edit(Machine::Witness, settings)?;
        lab.reload_witness()?;
    }
    Ok(())
}

/// Gives every machine the file that the lab began with, one after the other.
pub(super) fn undo(lab: &mut Lab) -> Result<()> {
    for node in NODES {
        if lab.has_own_file(node) {
            lab.edit(node, None)?;
            restart::in_order(lab, node)?;
        }
    }
    if lab.has_own_file(Machine::Witness) {
        edit_witness(lab, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::VIPS;
    use std::net::IpAddr;

    fn settings() -> Settings {
        let group = |name, preferred, number: usize| Group {
            name,
            preferred,
            addresses: VIPS[2 * number..2 * number + 2].to_vec(),
        };
        let groups = vec![group("web", Machine::A, 0), group("db", Machine::B, 1)];
        Settings { groups, lease: Some("20000us".into()), ..Settings::default() }
    }

    #[test]
    fn every_change_is_one_and_no_address_is_in_two_groups() {
        let before = settings();
        for change in CHANGES {
            let after = change.of(&before);
            let same = after.groups == before.groups;
            assert_eq!(same, change == Change::Lengths, "{change:?}");
            assert!(after.groups.iter().all(|group| !group.addresses.is_empty()), "{change:?}");
            let mut addresses: Vec<IpAddr> =
                after.groups.iter().flat_map(|group| group.addresses.clone()).collect();
            let count = addresses.len();
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), count, "{change:?}");
        }
    }

    #[test]
    fn lengths_grow_by_half() {
        let after = Change::Lengths.of(&settings());
        assert_eq!(after.lease.as_deref(), Some("30000us"));
        assert_eq!(longer("300ms"), "450ms");
    }
}
