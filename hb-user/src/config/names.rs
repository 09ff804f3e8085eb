//! Names that are safe to print, compare and build paths from.

use std::{borrow::Borrow, fmt};

/// Why a text is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}; use {rule}")]
pub struct NameError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident($what:literal, $rule:literal, $check:expr);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            #[doc = concat!("Returns `text` as a ", $what, ".")]
            ///
            /// # Errors
            ///
            /// [`NameError`] states the rule.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { text: text.into(), what: $what, rule: $rule })
                }
            }

            /// Returns the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// Name of a cluster: 1 to 32 of `a-z`, `0-9` and `-`.
    ClusterName("cluster name", "1 to 32 of a-z, 0-9 and -", |text| {
        (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    });
    /// Name of a node, link, group or resource: 1 to 64 of letters, digits, `.`, `_` and `-`,
    /// beginning with a letter or digit. 64 is the longest host name of Linux (`utsname(2)`).
    Name("name", "1 to 64 letters, digits, dots, _ and -, a letter or digit first", |text| {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    /// Name of a network interface, by the rule of the kernel (`dev_valid_name`).
    InterfaceName("interface name", "1 to 15 characters without spaces, / and :", |text| {
        (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        assert!(ClusterName::new("pair-1").is_ok());
        for bad in ["", "Pair", "a b", "a/b", "a_b", &"a".repeat(33)] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
        assert!(Name::new("Web-1.example.com").is_ok());
        for bad in ["", "..", "-a", "a/b", "a b", "ü", &"a".repeat(65)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert!(InterfaceName::new("enp0s31f6.100").is_ok());
        for bad in ["", ".", "..", "eth0:1", "a/b", "a b", "abcdefghijklmnop"] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            ClusterName::new("A").unwrap_err().to_string(),
            "\"A\" is no cluster name; use 1 to 32 of a-z, 0-9 and -"
        );
    }
}
