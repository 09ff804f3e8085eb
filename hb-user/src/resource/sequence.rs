//! The resources of a group, one after the other.

use super::{Agent, Failures, Order, Place, ResourceError, StartError, State, agent::Look};

/// The resources of one group on this node: started in order, stopped in reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    place: Place,
    agents: Vec<Agent>,
}

impl Sequence {
    /// Makes a sequence of `agents` in the order in which they start.
    #[must_use]
    pub fn new(place: Place, agents: Vec<Agent>) -> Self {
        Self { place, agents }
    }

    /// Returns the resources in the order in which they start.
    #[must_use]
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Starts every resource in order.
    ///
    /// With `resuming` (a daemon that starts on a node that may already serve) each is first asked
    /// for its state and left alone if it runs. When one fails, it and those before it are stopped
    /// in reverse; one that failed to start may have come half-way.
    ///
    /// Dropping the future kills the program that runs; what was started before it goes on, so the
    /// caller follows with [`Sequence::stop_all`].
    ///
    /// # Errors
    /// The first failure, with every resource that did not stop afterwards.
    pub async fn start_all(&self, order: &Order, resuming: bool) -> Result<(), StartError> {
        for (index, agent) in self.agents.iter().enumerate() {
            if resuming && self.runs(agent, order).await {
                continue;
            }
            let Err(cause) = agent.start(&self.place, order).await else { continue };
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
        let errors = self.stop_first(self.agents.len(), order).await;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Failures { group: self.place.group.clone(), errors })
        }
    }

    /// Asks every resource for its state, in order, by name.
    pub async fn status_all(&self, order: &Order) -> Vec<(String, Result<State, ResourceError>)> {
        let mut states = Vec::with_capacity(self.agents.len());
        for agent in &self.agents {
            let state = agent.status(Look::Watch, &self.place, order).await;
            states.push((agent.name.clone(), state));
        }
        states
    }

    /// Returns whether `agent` need not be asked to start. If it cannot tell, starting it is harmless by
    /// its promise, and shows what is wrong.
    async fn runs(&self, agent: &Agent, order: &Order) -> bool {
        let group = &self.place.group;
        match agent.status(Look::Probe, &self.place, order).await {
            Ok(State::Running | State::Degraded { .. }) => {
                tracing::info!(group, resource = agent.name, "runs already: not started");
                true
            }
            Ok(State::Stopped) => false,
            Ok(State::Failed { code, meaning, last_line }) => {
                let resource = &agent.name;
                tracing::warn!(
                    group,
                    resource,
                    code,
                    meaning,
                    last_line,
                    "found failed: starting it"
                );
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
        for agent in self.agents[..count].iter().rev() {
            if let Err(error) = agent.stop(&self.place, order).await {
                tracing::warn!(group = self.place.group, %error, "not stopped: going on");
                errors.push(error);
            }
        }
        errors
    }
}
