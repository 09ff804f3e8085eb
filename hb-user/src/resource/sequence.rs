//! The resources of a group, one after the other.

use super::{Failures, Order, Place, ResourceError, Script, StartError, State};

/// The resources of one group on this node: started in order, stopped in reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    place: Place,
    scripts: Vec<Script>,
}

impl Sequence {
    /// Makes a sequence of `scripts` in the order in which they start.
    #[must_use]
    pub fn new(place: Place, scripts: Vec<Script>) -> Self {
        Self { place, scripts }
    }

    /// Returns the resources in the order in which they start.
    #[must_use]
    pub fn scripts(&self) -> &[Script] {
        &self.scripts
    }

    /// Starts every resource in order.
    ///
    /// With `resuming` (a daemon that starts on a node that may already serve) each is first asked
    /// for its state and left alone if it runs. When one fails, it and those before it are stopped
    /// in reverse; one that failed to start may have come half-way.
    ///
    /// Dropping the future kills the script that runs; what was started before it goes on, so the
    /// caller follows with [`Sequence::stop_all`].
    ///
    /// # Errors
    /// The first failure, with every resource that did not stop afterwards.
    pub async fn start_all(&self, order: &Order, resuming: bool) -> Result<(), StartError> {
        for (index, script) in self.scripts.iter().enumerate() {
            if resuming && self.runs(script, order).await {
                continue;
            }
            let Err(cause) = script.start(&self.place, order).await else { continue };
            let started = if cause.never_ran() { index } else { index + 1 };
            let not_stopped = self.stop_first(started, order).await;
            return Err(StartError { group: self.place.group.clone(), cause, not_stopped });
        }
        Ok(())
    }

    /// Stops every resource in reverse, going on past those that fail.
    ///
    /// # Errors
    /// Every resource that did not stop. The group must be considered to run here.
    pub async fn stop_all(&self, order: &Order) -> Result<(), Failures> {
        let errors = self.stop_first(self.scripts.len(), order).await;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Failures { group: self.place.group.clone(), errors })
        }
    }

    /// Asks every resource for its state, in order, by name.
    pub async fn status_all(&self, order: &Order) -> Vec<(String, Result<State, ResourceError>)> {
        let mut states = Vec::with_capacity(self.scripts.len());
        for script in &self.scripts {
            states.push((script.name.clone(), script.status(&self.place, order).await));
        }
        states
    }

    /// Returns whether `script` need not be started. If it cannot tell, starting it is harmless by
    /// its promise, and shows what is wrong.
    async fn runs(&self, script: &Script, order: &Order) -> bool {
        let group = &self.place.group;
        match script.status(&self.place, order).await {
            Ok(State::Running) => {
                tracing::info!(group, resource = script.name, "runs already: not started");
                true
            }
            Ok(State::Stopped) => false,
            Ok(State::Failed { code, last_line }) => {
                let resource = &script.name;
                tracing::warn!(group, resource, code, last_line, "found failed: starting it");
                false
            }
            Err(error) => {
                tracing::warn!(group, %error, "state unknown: starting it");
                false
            }
        }
    }

    async fn stop_first(&self, count: usize, order: &Order) -> Vec<ResourceError> {
        let mut errors = Vec::new();
        for script in self.scripts[..count].iter().rev() {
            if let Err(error) = script.stop(&self.place, order).await {
                tracing::warn!(group = self.place.group, %error, "not stopped: going on");
                errors.push(error);
            }
        }
        errors
    }
}
