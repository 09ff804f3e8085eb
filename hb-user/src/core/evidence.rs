//! What a node hears on the interfaces of a group's addresses. Whose fault a silent link is, it says
//! only beside what the other node hears.

use std::time::Duration;

use hb_ebpf::wire::Standing;

/// What a node hears. Empty is as well as can be. Texts for people say what is not heard, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Nothing was heard yet on one of the interfaces since it is in use, while another node lives, and it
    /// is too early to say that nothing will be.
    pub pending: bool,
    /// A link of one of the interfaces works one way at most, and nobody else answers there either.
    pub unheard: Option<String>,
    /// On a link of one of the interfaces the other nodes fell silent, while they live elsewhere, and
    /// nothing else arrives there.
    pub deaf: Option<String>,
    /// No target of a ping group of one of the interfaces answers; or some addresses of the group, which
    /// needs one of them, have no route to their neighbours.
    pub unreached: Option<String>,
    /// By how much later than this node another one finds out the same, at most.
    pub lag: Duration,
}

impl Evidence {
    /// Returns it as frames say it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing::default()
            .with(Standing::UNHEARD, self.unheard.is_some())
            .with(Standing::DEAF, self.deaf.is_some())
            .with(Standing::UNREACHED, self.unreached.is_some())
    }

    /// Returns what is heard on the interfaces of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            pending: self.pending || other.pending,
            unheard: self.unheard.or(other.unheard),
            deaf: self.deaf.or(other.deaf),
            unreached: self.unreached.or(other.unreached),
            lag: self.lag.max(other.lag),
        }
    }

    /// Returns what is wrong, the surest sign first.
    pub(super) fn wrong(&self) -> Option<&str> {
        let surest = self.unreached.as_deref().or(self.deaf.as_deref());
        surest.or(self.unheard.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_on_either_interface_is_wrong() {
        let text = |text: &str| Some(text.to_owned());
        let second = Duration::from_secs(1);
        let one = Evidence { deaf: text("eth0"), lag: second, ..Evidence::default() };
        let other = Evidence { pending: true, unreached: text("eth1"), ..Evidence::default() };
        let both = one.clone().and(other.clone());
        assert_eq!(both, other.clone().and(one.clone()));
        assert!(both.pending && both.lag == second);
        assert_eq!(both.standing(), Standing::DEAF.with(Standing::UNREACHED, true));
        assert_eq!((both.wrong(), one.wrong()), (Some("eth1"), Some("eth0")));
        assert_eq!(Evidence::default().wrong(), None);
    }
}
