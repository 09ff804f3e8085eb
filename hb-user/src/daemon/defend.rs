//! Somebody else claims an address that this node serves.

use std::time::Duration;

use hb_ebpf::{maps::Event, time::BootTime};

use super::{
    Daemon,
    gate::{mac_text, numbered},
    resources::describe,
};
use crate::{clock, core::Phase, fast::Command, id::GroupId};

/// The first claim in so long is answered at once: two machines that both insist would go on for ever
/// (RFC 5227, 2.4).
const DEFEND_EVERY: Duration = Duration::from_secs(10);

/// Others are answered after this, all of it together. Never answered, they would lead clients astray
/// until these ask again. The kernel half tells of one claim in so long.
const LATE: Duration = Duration::from_secs(1);

/// How one service address is defended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defense {
    /// When a claim was answered last.
    answered: Option<BootTime>,
    /// When to answer those since.
    due: Option<BootTime>,
}

impl Defense {
    /// Takes note of a claim. Returns whether it is answered at once.
    fn claimed(&mut self, now: BootTime) -> bool {
        if self.answered.is_some_and(|answered| now.since(answered) < DEFEND_EVERY) {
            self.due.get_or_insert(now.after(LATE));
            return false;
        }
        *self = Self { answered: Some(now), due: None };
        true
    }

    /// Tells whether claims are to be answered now that were not when they came.
    fn is_due(&mut self, now: BootTime) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            *self = Self { answered: Some(now), due: None };
        }
        due
    }
}

impl Daemon {
    /// Somebody else claims an address that this node serves: said, and defended.
    pub(super) fn on_claim(&mut self, event: &Event) {
        let all: Vec<_> = numbered(&self.vips);
        let Some((address, group)) = all.get(usize::from(event.link)).copied() else { return };
        let group = GroupId(group);
        let mac = match self.kernel.claims(event.link) {
            Ok(claims) => mac_text(claims.mac),
            Err(error) => describe(&error),
        };
        let at_once = self.defended.entry(event.link).or_default().claimed(clock::now());
        if at_once {
            self.command(Command::Announce { group });
        }
        let group = self.group_name(group);
        let answer = if at_once { "at once" } else { "within 1 s" };
        tracing::warn!(
            group,
            vip = %address,
            mac,
            answer,
            "somebody else claims an address that this node serves"
        );
    }

    /// Answers the claims that were not answered at once, once for a whole group.
    pub(super) fn go_on_defending(&mut self, now: BootTime) {
        let due = self
            .defended
            .iter_mut()
            .filter_map(|(number, defense)| defense.is_due(now).then_some(usize::from(*number)));
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return;
        }
        let all = numbered(&self.vips);
        let groups = due.into_iter().filter_map(|number| all.get(number));
        let mut groups: Vec<_> = groups.map(|(_, group)| GroupId(*group)).collect();
        groups.dedup();
        for view in self.controller.core().view().groups {
            let serves = matches!(view.phase, Phase::Starting { .. } | Phase::Serving { .. });
            if serves && groups.contains(&view.group) {
                self.command(Command::Remind { group: view.group });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_is_answered_and_no_more_than_one_in_a_second() {
        let at = |ms: u64| BootTime(5_000_000_000 + ms * 1_000_000);
        let mut defense = Defense::default();
        assert!(!defense.is_due(at(0)));
        assert!(defense.claimed(at(0)), "the first at once");
        assert!(!defense.is_due(at(5000)));
        // Each claim is followed by an answer within a second, however many there are.
        let mut answers = Vec::new();
        let mut open = None;
        for ms in 3000..60_000 {
            let claim = ms < 30_000 && ms % 70 == 0;
            if claim {
                assert!(!defense.claimed(at(ms)), "one after the other");
                open.get_or_insert(ms);
            }
            if defense.is_due(at(ms)) {
                assert!(open.take().is_some_and(|since| ms - since <= 1000), "{ms}");
                answers.push(ms);
            }
        }
        assert_eq!(open, None);
        assert!(answers.windows(2).all(|pair| pair[1] - pair[0] >= 1000), "{answers:?}");
        assert!(answers.len() > 20, "{answers:?}");
        assert!(defense.claimed(at(60_000)), "after a quiet while at once again");
    }
}
