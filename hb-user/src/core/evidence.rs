//! What a node hears on the interfaces of a group's addresses. Whose fault a silent link is, it says
//! only beside what the other node hears.

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

    /// Returns what is wrong, the surest sign first.
    pub(super) fn wrong(&self) -> Option<&str> {
        [&self.unreached, &self.deaf, &self.unheard]
            .into_iter()
            .flatten()
            .next()
            .map(String::as_str)
    }
}
