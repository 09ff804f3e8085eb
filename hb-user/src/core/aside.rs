//! Of which groups an operator wants this node to stand aside.

use std::{fmt, str::FromStr};

/// Which groups this node does not take, though it could: neither when their holder dies, nor when it hands
/// them over. What it holds of them it hands over as soon as another node can take it, and serves until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aside {
    /// None.
    #[default]
    Nothing,
    /// Those that prefer this node.
    Local,
    /// Those that prefer another node, or none.
    Foreign,
    /// All.
    All,
}

impl Aside {
    /// All of them.
    pub const EVERY: [Self; 4] = [Self::Nothing, Self::Local, Self::Foreign, Self::All];

    /// Returns the word for it, as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Local => "local",
            Self::Foreign => "foreign",
            Self::All => "all",
        }
    }

    /// Tells whether a group is among them that prefers this node, or does not.
    #[must_use]
    pub const fn covers(self, prefers_this: bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Local => prefers_this,
            Self::Foreign => !prefers_this,
            Self::All => true,
        }
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no group",
            Self::Local => "the groups that prefer this node",
            Self::Foreign => "the groups that prefer another node",
            Self::All => "all groups",
        })
    }
}

impl FromStr for Aside {
    /// It is none of the words.
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::EVERY.into_iter().find(|aside| aside.as_str() == word).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written() {
        for aside in Aside::EVERY {
            assert_eq!(aside.as_str().parse(), Ok(aside));
        }
        for wrong in ["", "All", "all ", "none"] {
            assert_eq!(wrong.parse::<Aside>(), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn a_group_is_local_or_foreign_and_always_one_of_all() {
        let covered = |aside: Aside| [true, false].map(|prefers| aside.covers(prefers));
        assert_eq!(covered(Aside::Nothing), [false, false]);
        assert_eq!(covered(Aside::Local), [true, false]);
        assert_eq!(covered(Aside::Foreign), [false, true]);
        assert_eq!(covered(Aside::All), [true, true]);
    }
}
