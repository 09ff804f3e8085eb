//! Searches that have to hold.

use hb_model::{
    rules::{Production, Rules},
    search::{Outcome, search},
    setup::Setup,
};

/// Searches `setup`, which has to be complete and sound.
pub(crate) fn holds<R: Rules>(name: &str, rules: R, setup: &Setup) -> Outcome {
    let outcome = search(setup, rules, None);
    println!("{name}: {outcome}");
    assert_eq!(outcome.violation, None, "{name}");
    assert!(outcome.complete, "{name} was cut off");
    outcome
}

/// Runs only when the larger searches are asked for, and says so when not.
pub(crate) fn full(name: &str, setup: &Setup) {
    if std::env::var("HB_MODEL").as_deref() == Ok("full") {
        holds(name, Production, setup);
    } else {
        println!("{name}: left out, set HB_MODEL=full to run it");
    }
}
