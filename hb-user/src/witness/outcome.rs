//! What came of the command, for people.

use std::{fmt, time::Duration};

use crate::{config::Readable, kernel::Mode};

/// What came of it. Displays a line for each interface and cluster.
#[derive(Debug)]
pub struct Outcome {
    /// Interfaces attached to, how, and why not natively.
    pub attached: Vec<(String, Mode, Option<String>)>,
    /// What became of each cluster, in the order of the configurations.
    pub clusters: Vec<(String, Standing)>,
}

/// What became of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is new here, and the machine votes once this has passed.
    New(Duration),
    /// It was here with other voters or leases: the machine votes again once this has passed.
    Reconfigured(Duration),
    /// It was here with other groups: the machine votes for those that changed once this has passed, and
    /// for the others as before.
    Regrouped(Duration),
    /// It was here; its records stay as they are.
    Known,
    /// The machine has no numbers of it and takes no part before these nodes were heard.
    Learner(Vec<String>),
    /// It was a learner, and is none any more: it votes once this has passed.
    Confirmed(Duration),
}

impl Outcome {
    /// Returns the interfaces that are not attached to natively, and why.
    pub fn slow(&self) -> impl Iterator<Item = (&str, Mode, &str)> {
        self.attached.iter().filter_map(|(interface, mode, reason)| {
            Some((interface.as_str(), *mode, reason.as_deref()?))
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (interface, mode, _) in &self.attached {
            writeln!(f, "{interface}: attached in {} mode", mode.as_str())?;
        }
        for (name, standing) in &self.clusters {
            match standing {
                Standing::New(wait) => writeln!(f, "{name}: added, votes in {}", Readable(*wait)),
                Standing::Reconfigured(wait) => writeln!(
                    f,
                    "{name}: voters or leases were changed; what was promised binds still, votes \
                     again in {}",
                    Readable(*wait)
                ),
                Standing::Regrouped(wait) => writeln!(
                    f,
                    "{name}: groups were changed; votes for them in {}, and for the others as before",
                    Readable(*wait)
                ),
                Standing::Known => writeln!(f, "{name}: votes, its records were kept"),
                Standing::Confirmed(wait) => {
                    writeln!(f, "{name}: every node was heard, votes in {}", Readable(*wait))
                }
                Standing::Learner(unheard) => writeln!(
                    f,
                    "{name}: does not vote: there is no number of an earlier start on this disk, \
                     and not heard: {}; start them and run `hb witness` again, or, if this machine \
                     never voted in this cluster, run `hb witness --confirm`",
                    unheard.join(", ")
                ),
            }?;
        }
        Ok(())
    }
}
