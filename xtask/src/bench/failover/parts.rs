//! The parts of an outage, one after the other from the last answer of a to the first of b.

use serde::Serialize;

use crate::{
    bench::figures::Figures,
    timeline::{Instants, Run},
};

/// One part in all runs that had it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    /// What happened meanwhile.
    pub(super) name: &'static str,
    /// How long it took, in microseconds.
    pub(super) us: Figures,
}

/// A part, and the instant that ends it.
type End = (&'static str, fn(&Instants) -> Option<i64>);

/// In order of time. A takeover is due when silence is deadtime, when the controller's age is its
/// deadtime, or when the group was released. What ends before the one before it did, takes no time; what a run has no instant
/// of is part of what comes next.
const ENDS: [End; 7] = [
    ("until it is due", |at| at.due_ns),
    ("verdict in the kernel", |at| at.verdict_ns),
    ("wake-up of the fast path", |at| at.seen_ns.or(at.sought_ns)),
    ("promise", |at| at.won_ns),
    ("first announcement", |at| at.announced_ns),
    ("addresses", |at| at.address_ns),
    ("first served packet", |at| at.first_answer_new_ns),
];

/// The names of all parts, in order.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ENDS.into_iter().map(|(name, _)| name)
}

/// Returns the parts of one run, each in nanoseconds; together they are the outage. Where the old node
/// serves on after the fault, what happens meanwhile is part of none.
fn of_run(instants: &Instants) -> Vec<(&'static str, i64)> {
    let mut reached = instants.last_answer_old_ns.unwrap_or(0);
    let mut parts = Vec::new();
    for (name, end) in ENDS {
        if let Some(end) = end(instants) {
            parts.push((name, (end - reached).max(0)));
            reached = reached.max(end);
        }
    }
    parts
}

/// Sums up the parts of all runs.
pub(super) fn of(runs: &[&Run]) -> Vec<Part> {
    let all: Vec<_> = runs.iter().flat_map(|run| of_run(&run.instants)).collect();
    let part = |name: &'static str| {
        let us: Vec<f64> = all
            .iter()
            .filter(|(other, _)| *other == name)
            .map(|&(_, ns)| ns as f64 / 1e3)
            .collect();
        Figures::of(&us).map(|us| Part { name, us })
    };
    names().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_first_answer() {
        let instants = Instants {
            last_answer_old_ns: Some(-50),
            due_ns: Some(500),
            verdict_ns: Some(520),
            seen_ns: Some(600),
            // Won at once, before the fast path looked again.
            won_ns: Some(590),
            address_ns: Some(700),
            announced_ns: Some(650),
            first_answer_new_ns: Some(900),
            ..Instants::default()
        };
        let parts = of_run(&instants);
        assert_eq!(parts.iter().map(|(_, ns)| ns).sum::<i64>(), 950);
        assert!(parts.contains(&("promise", 0)), "{parts:?}");
        assert!(parts.contains(&("first served packet", 200)), "{parts:?}");
    }

    #[test]
    fn what_happens_while_the_old_node_serves_takes_no_time() {
        let instants = Instants {
            last_answer_old_ns: Some(20_000),
            due_ns: Some(19_000),
            won_ns: Some(20_100),
            first_answer_new_ns: Some(20_400),
            ..Instants::default()
        };
        let expected = [("until it is due", 0), ("promise", 100), ("first served packet", 300)];
        assert_eq!(of_run(&instants), expected);
    }

    #[test]
    fn what_has_no_instant_belongs_to_what_comes_next() {
        let instants =
            Instants { won_ns: Some(300), first_answer_new_ns: Some(400), ..Instants::default() };
        assert_eq!(of_run(&instants), [("promise", 300), ("first served packet", 100)]);
    }
}
