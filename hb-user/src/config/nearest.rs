//! Finds the word somebody may have meant.

use strsim::osa_distance;

/// Returns the candidate closest to `word` if it is close enough to be a slip: at most one change
/// per three characters, and one more, whatever the case. A change is one character inserted, deleted or
/// replaced, or two neighbours swapped (optimal string alignment).
fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Nobody slips from a page of text to a key; this also bounds the work.
    if word.chars().count() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    let allowed = |candidate: &str| word.chars().count().min(candidate.chars().count()) / 3 + 1;
    candidates
        .into_iter()
        .map(|candidate| (osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(changes, candidate)| {
            *changes <= allowed(candidate) && *changes < candidate.chars().count()
        })
        .min_by_key(|(changes, _)| *changes)
        .map(|(_, candidate)| candidate)
}

/// Returns what to say after an unknown word: the nearest of `candidates`, else all of them, which
/// are `what`, as in "known keys: a, b".
pub(crate) fn suggestion<'c, I>(word: &str, what: &str, candidates: I) -> String
where
    I: IntoIterator<Item = &'c str> + Clone,
{
    match nearest(word, candidates.clone()) {
        Some(candidate) => format!("did you mean {candidate:?}?"),
        None => {
            let all: Vec<_> = candidates.into_iter().collect();
            if all.is_empty() {
                format!("there are no {what}")
            } else {
                format!("{what}: {}", all.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_slips_only() {
        let keys = ["interval", "misses", "deadtime"];
        assert_eq!(nearest("misess", keys), Some("misses"));
        assert_eq!(nearest("dead_time", keys), Some("deadtime"));
        assert_eq!(nearest("intervall", keys), Some("interval"));
        assert_eq!(nearest("Interval", keys), Some("interval"));
        assert_eq!(nearest("ping", keys), None);
        assert_eq!(nearest("c", ["a", "b"]), None);
        assert_eq!(suggestion("ping", "known keys", ["a", "b"]), "known keys: a, b");
        assert_eq!(suggestion("ping", "interfaces", []), "there are no interfaces");
    }
}
