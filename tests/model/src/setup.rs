//! What is explored.

use hb_ebpf::lease::{Policy, Terms, terms::MAX_VOTERS};

/// Machines of a model at most.
pub const MACHINES: usize = MAX_VOTERS;

/// What is explored: lengths in units of time, and how much the adversary may do.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who may serve; under `safe` there are two nodes and nobody else.
    pub policy: Policy,
    /// Machines that may hold, with ids from 1.
    pub nodes: u8,
    /// Machines beside them that only vote.
    pub witnesses: u8,
    /// `L`.
    pub lease: u64,
    /// `L` after a reconfiguration, which each machine makes at an instant of its own, if at all.
    pub next_lease: Option<u64>,
    /// `L_max`.
    pub longest: u64,
    /// Time from the gate to the wire.
    pub margin: u64,
    /// How long a released vote stays bound.
    pub drain: u64,
    /// How long an epoch is sought at least.
    pub seek: u64,
    /// In parts of 1024; rates differ by no more.
    pub rho: u32,
    /// Rates of the machines' clocks; each entry is an initial state of its own.
    pub rates: Vec<[u8; MACHINES]>,
    /// Seeks of all nodes together.
    pub seeks: u8,
    /// Times that a node gives up its seek.
    pub give_ups: u8,
    /// Starts without a record of all machines together.
    pub restarts: u8,
    /// Ids of the machines that may restart.
    pub restarting: &'static [u8],
    /// Ids of the nodes that may leave in order and start again, which counts among the restarts.
    pub renewing: &'static [u8],
    /// Releases of all nodes together.
    pub releases: u8,
    /// How long a program that releases stands still between its look at the clock and the lock, while
    /// packets pass on other processors.
    pub stall: u64,
    /// Fences asked for by both nodes together, under `safe`.
    pub fences: u8,
    /// Times that a node leaves in order, with a promise that has no end, under `safe`.
    pub vows: u8,
    /// Generations that a witness has on its disk beyond the one it began with: it stores none
    /// while it runs. 0 if it stores what it hears of, as a node does.
    pub headroom: u32,
    /// Generations on the machines' disks to begin with.
    pub generations: [u32; MACHINES],
    /// Pairs of machines between which nothing arrives, to narrow a search.
    pub cut: &'static [(u8, u8)],
    /// Whether the first node holds from the start, by the votes of all that hear it.
    pub held: bool,
    /// Whether to check that the good schedule leads to a holder from every state.
    pub recovery: bool,
    /// Whether to check that an open gate stays open under the good schedule, and without any one
    /// other machine thereafter.
    pub steady: bool,
}

impl Setup {
    /// Two nodes and a witness whose clocks run at one rate: a tick is two units.
    ///
    /// The lengths are the smallest that keep apart what the rules keep apart: a lease ends between
    /// two ticks, its promise at the next, and a packet may be on its way over a tick.
    #[must_use]
    pub fn even() -> Self {
        Self {
            policy: Policy::Witness,
            nodes: 2,
            witnesses: 1,
            lease: 3,
            next_lease: None,
            longest: 3,
            margin: 1,
            drain: 2,
            seek: 2,
            rho: 0,
            rates: vec![[2; MACHINES]],
            seeks: 2,
            give_ups: 0,
            restarts: 0,
            restarting: &[],
            renewing: &[],
            releases: 0,
            stall: 0,
            fences: 0,
            vows: 0,
            headroom: 0,
            generations: [1; MACHINES],
            cut: &[],
            held: false,
            recovery: false,
            steady: false,
        }
    }

    /// Two nodes and a witness; the first node's clock runs at two thirds of the others' rate,
    /// which is all that a `rho` of one half allows. Every wait is a whole number of units.
    #[must_use]
    pub fn uneven() -> Self {
        let rates = vec![[2, 3, 3, 3, 3]];
        Self { lease: 4, longest: 4, margin: 2, drain: 4, rho: 512, rates, ..Self::even() }
    }

    /// As [`uneven`](Self::uneven), with every choice of the slower and the faster rate.
    #[must_use]
    pub fn any_rates() -> Self {
        let mut setup = Self::uneven();
        let choices = 0..1 << setup.machines();
        let rate = |choice: u32, machine: usize| 2 + (choice >> machine & 1) as u8;
        setup.rates =
            choices.map(|choice| std::array::from_fn(|machine| rate(choice, machine))).collect();
        setup
    }

    /// This setup under policy `safe`: its nodes alone, each able to have the other one fenced.
    #[must_use]
    pub fn safe(self) -> Self {
        Self { policy: Policy::Safe, witnesses: 0, ..self }
    }

    /// Tells whether the policy is `safe`.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.policy == Policy::Safe
    }

    /// Returns the number of machines.
    #[must_use]
    pub fn machines(&self) -> u8 {
        self.nodes + self.witnesses
    }

    /// Returns the terms of machine `id`.
    #[must_use]
    pub fn terms(&self, id: u8, reconfigured: bool) -> Terms {
        let mut voters = [0; MAX_VOTERS];
        for voter in 1..=self.machines() {
            voters[usize::from(voter) - 1] = voter;
        }
        let lease = if reconfigured { self.next_lease } else { None }.unwrap_or(self.lease);
        Terms {
            lease_ns: lease,
            longest_lease_ns: self.longest,
            margin_ns: self.margin,
            drain_ns: self.drain,
            seek_ns: self.seek,
            rho: self.rho,
            count: self.machines(),
            own: id,
            witness: u8::from(id > self.nodes),
            policy: self.policy as u8,
            voters,
            padding: [0; 3],
        }
    }

    /// Tells whether nothing arrives between two machines.
    pub(crate) fn is_cut(&self, one: u8, other: u8) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    /// Returns the longest lease that any configuration asks for.
    pub(crate) fn longest_in_use(&self) -> u64 {
        self.lease.max(self.next_lease.unwrap_or(0))
    }
}
