//! Runs a search and says how far it went.

use std::{fmt, num::NonZero};

use stateright::{Checker, HasDiscoveries, Model};

use crate::{rules::Rules, setup::Setup, system::Protocol};

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// States that differ.
    pub states: usize,
    /// Steps generated, with those that led to known states.
    pub generated: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Whether everything reachable was seen.
    pub complete: bool,
    /// The way to a state where the invariant or recovery fails, shortest first.
    pub violation: Option<String>,
    /// Whether a node was seen to hold again after another one did.
    pub fail_back: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.complete { "complete" } else { "cut off" };
        write!(
            f,
            "{} states, {} steps, depth {}, {extent}",
            self.states, self.generated, self.depth
        )
    }
}

/// Explores `setup` under `rules`, breadth first, to `depth` steps or completely.
pub fn search<R: Rules>(setup: &Setup, rules: R, depth: Option<usize>) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = Protocol { setup: setup.clone(), rules }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures);
    if let Some(depth) = depth {
        builder = builder.target_max_depth(depth);
    }
    let checker = builder.spawn_bfs().join();
    let mut violation = None;
    for name in ["never two servers", "a holder can be found", "what is held stays held"] {
        if let Some(path) = checker.discovery(name) {
            let moves: Vec<_> =
                path.into_actions().iter().map(|step| format!("{step:?}")).collect();
            violation = Some(format!("{name} fails after:\n  {}", moves.join("\n  ")));
            break;
        }
    }
    Outcome {
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        complete: violation.is_none() && depth.is_none_or(|limit| checker.max_depth() < limit),
        violation,
        fail_back: checker.discovery("the group comes back to its first holder").is_some(),
    }
}
