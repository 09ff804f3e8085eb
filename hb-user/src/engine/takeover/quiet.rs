//! When the daemon is told of what happened.

/// For so long after a peer fell silent, or a group came or went, it is not told: its main loop runs
/// before everything of lower priority, and on a small machine the service is to have a core first.
const LENGTH_NS: u64 = 1_000_000;

/// A while in which reports wait in the queue without a ring.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    until_ns: Option<u64>,
}

impl Quiet {
    /// Begins, or goes on for its whole length from now. For what happens once.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.until_ns = Some(now_ns + LENGTH_NS);
    }

    /// Begins unless it lasts. For what may happen again and again, and must not hush for ever.
    pub(super) fn begin_once(&mut self, now_ns: u64) {
        self.until_ns.get_or_insert(now_ns + LENGTH_NS);
    }

    /// Tells whether a report is to wait.
    pub(super) fn lasts(&self) -> bool {
        self.until_ns.is_some()
    }

    /// Ends it; returns whether there was one, and the daemon is to be told now.
    pub(super) fn end(&mut self) -> bool {
        self.until_ns.take().is_some()
    }

    /// Ends it if it has lasted long enough; returns as [`end`](Self::end).
    pub(super) fn expire(&mut self, now_ns: u64) -> bool {
        self.until_ns.is_some_and(|until| until <= now_ns) && self.end()
    }

    /// Returns when [`expire`](Self::expire) has something to do; never, outside of one.
    pub(super) fn due_ns(&self) -> u64 {
        self.until_ns.unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_is_told_in_time() {
        let mut quiet = Quiet::default();
        let mut told = Vec::new();
        // A peer that is late each 100 us, for ten milliseconds.
        for now in (0..10_000_000).step_by(100_000) {
            quiet.begin_once(now);
            if quiet.expire(now) {
                told.push(now);
            }
        }
        let longest = told.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(told[0] <= LENGTH_NS && longest <= LENGTH_NS + 100_000, "{told:?}");
    }

    #[test]
    fn what_happens_once_has_its_whole_quiet() {
        let mut quiet = Quiet::default();
        assert!(!quiet.lasts() && !quiet.expire(u64::MAX - 1) && quiet.due_ns() == u64::MAX);
        quiet.begin_once(0);
        quiet.begin(900_000);
        assert!(!quiet.expire(LENGTH_NS) && quiet.lasts());
        assert_eq!(quiet.due_ns(), 900_000 + LENGTH_NS);
        assert!(quiet.expire(900_000 + LENGTH_NS));
        assert!(!quiet.lasts() && !quiet.end(), "nobody is told twice");
        quiet.begin(5_000_000);
        assert!(quiet.end(), "a fence does not wait");
    }
}
