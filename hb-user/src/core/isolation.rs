//! Whether anything arrives at this machine.

use std::time::Duration;

use hb_ebpf::time::BootTime;

use super::action::Transition;

/// What is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Isolation {
    isolated: bool,
    /// When it was told first that something arrives, while that has been so since.
    reached: Option<BootTime>,
    /// People were told, and no other node was heard since.
    said: bool,
}

impl Isolation {
    /// Takes note of what the shell found at `now`; returns what to tell people. In a silent network that
    /// is once, and not at every packet of a stranger.
    pub(super) fn hear(&mut self, isolated: bool, now: BootTime) -> Option<Transition> {
        self.isolated = isolated;
        if isolated {
            self.reached = None;
            return (!std::mem::replace(&mut self.said, true))
                .then_some(Transition::Isolated(true));
        }
        self.reached.get_or_insert(now);
        None
    }

    /// Takes note that another node is heard; returns what to tell people.
    pub(super) fn node_heard(&mut self) -> Option<Transition> {
        (!self.isolated && std::mem::replace(&mut self.said, false))
            .then_some(Transition::Isolated(false))
    }

    /// Tells whether nothing arrives.
    pub(super) const fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Tells whether something has arrived for `long`.
    pub(super) fn is_reached_for(&self, long: Duration, now: BootTime) -> bool {
        self.reached.is_some_and(|since| now.since(since) >= long)
    }
}
