//! Leaving nothing behind: the one way in which a gate is taken away, whoever asks for it. A daemon that
//! leaves, in order, at once or late; one whose start failed; `hb detach`; `hb gate --remove`.

mod order;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use hb_ebpf::{
    lease::{
        Policy, Terms, TermsError,
        op::{Op, Order},
    },
    time::BootTime,
    wire::{GROUPS, State},
};

use self::order::{Facts, Failure, PAUSE, Step};
use super::{
    clean::{self, Unswept},
    gate_report::{GateNode, GatePlace},
    prepare::Remains,
    resources::describe,
    strays,
};
use crate::{
    address::{AddressError, AddressSocket, PROTOCOL, Present},
    clock,
    id::NodeId,
    kernel::{
        self, GateView, Kernel, KernelError, Leases, PinsLock, gated_addresses, pinned_terms,
        remove_pins,
    },
    sockets::{SweepError, Sweeper},
    state_dir::{StateDir, StateDirError},
};

/// How long connections are ended before it is looked at how late it is.
const AT_ONE_GO: Duration = Duration::from_secs(1);

/// Why what a node has in the kernel is not taken away.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// A living daemon needs it.
    #[error(
        "a daemon runs and needs what is pinned at {}: stop it first (`hb stop`); a frozen one has \
         to be killed", .0.display()
    )]
    InUse(PathBuf),
    /// Something would get past, or would be answered later.
    #[error(
        "the gate stays, closed, because {why}: mend that, then run `hb detach`, or `hb gate --remove \
         --pins {}`", pins.display()
    )]
    Stays {
        /// Where it is pinned.
        pins: PathBuf,
        /// Why, and how to mend it.
        why: String,
    },
    /// There is no gate; but something of a service is here.
    #[error("there is no gate at {}, and {why}", pins.display())]
    Ungated {
        /// Where it would be pinned.
        pins: PathBuf,
        /// What is here, and how to end it.
        why: String,
    },
    /// The state directory is another daemon's, or unusable.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// What is pinned cannot be read, or not all of it be removed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Addresses cannot be reached.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The voters or the lengths of leases.
    #[error(transparent)]
    Terms(#[from] TermsError),
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Service addresses.
    pub addresses: usize,
    /// Interfaces with a gate.
    pub interfaces: usize,
}

/// A cluster and a node of it, by their ids.
type Whose = (u32, NodeId);

/// How the records of a node are asked to hold nothing.
pub(super) enum Records {
    /// There are none.
    Absent,
    /// By the program that changes them; and the terms they go by.
    Reached(Box<Leases>, Terms),
    /// Not at all: by then every lease has run out by itself, and the last packet has left.
    Beyond(BootTime),
}

/// What a node has in the kernel, about to be taken away.
pub(super) struct Removal {
    pins: PathBuf,
    records: Records,
    addresses: BTreeSet<IpAddr>,
    /// Whose gate it is, in case it is not pinned any more.
    node: Option<Whose>,
    /// Whether connections have to be ended where this kernel cannot.
    strict: bool,
    socket: AddressSocket,
    sweeper: Option<Sweeper>,
    removed: usize,
}

impl Removal {
    /// Begins to take away what is pinned at `pins`, the gate of `node` also if nothing is, and the
    /// service addresses `addresses`, under `policy`.
    ///
    /// # Errors
    ///
    /// [`RemovalError::Addresses`].
    pub(super) fn new(
        pins: &Path,
        node: Option<Whose>,
        records: Records,
        addresses: BTreeSet<IpAddr>,
        policy: Policy,
    ) -> Result<Self, RemovalError> {
        Ok(Self {
            pins: pins.to_owned(),
            node,
            records,
            addresses,
            strict: policy != Policy::Available,
            socket: AddressSocket::open()?,
            sweeper: None,
            removed: 0,
        })
    }

    /// Takes everything away, the gate last, and `kernel` with it. Returns how many addresses there
    /// were, and the records, which nobody reaches any more but by this.
    ///
    /// # Errors
    ///
    /// [`RemovalError::Stays`], and the gate is where it was; [`RemovalError::Kernel`].
    pub(super) fn run(
        mut self,
        kernel: Option<Kernel>,
    ) -> Result<(usize, Option<Leases>), RemovalError> {
        let mut facts = Facts::new(clock::now());
        loop {
            let now = clock::now();
            match order::next(&facts, now) {
                Step::Close => facts.closed.tried(tried(self.close())),
                Step::RemoveAddresses => facts.addresses.tried(tried(self.remove_addresses())),
                Step::Wait(until) => thread::sleep(until.since(now)),
                Step::EndWork => facts.work.tried(tried(self.end_work())),
                Step::TakeAway => break,
                Step::Keep(why) if self.pins.exists() => {
                    return Err(RemovalError::Stays { pins: self.pins, why });
                }
                Step::Keep(why) => return Err(RemovalError::Ungated { pins: self.pins, why }),
            }
        }
        match kernel {
            Some(kernel) => kernel.remove()?,
            None => remove_pins(&self.pins)?,
        }
        if let Some((cluster, me)) = self.node {
            kernel::remove_gate(cluster, me)?;
        }
        let leases = match self.records {
            Records::Reached(leases, _) => Some(*leases),
            Records::Absent | Records::Beyond(_) => None,
        };
        Ok((self.removed, leases))
    }

    /// Has every record hold and seek nothing, those of earlier configurations as well. Nobody makes
    /// one seek again but a daemon.
    fn close(&self) -> Result<BootTime, Failure> {
        let (leases, terms) = match &self.records {
            Records::Absent => return Ok(clock::now()),
            Records::Beyond(end) => return Ok(*end),
            Records::Reached(leases, terms) => (leases, terms),
        };
        let mut left = BootTime::NEVER;
        for group in 0..GROUPS as u8 {
            let end = close(leases, group).map_err(|error| Failure::Refused(describe(&error)))?;
            if end != 0 {
                left = left.max(BootTime(end.saturating_add(terms.wait_ns())));
            }
        }
        Ok(left)
    }

    fn remove_addresses(&mut self) -> Result<(), Failure> {
        let present = self.present()?;
        for found in present.iter().filter(|found| found.protocol == Some(PROTOCOL)) {
            if remove_address(&mut self.socket, found)
                .map_err(|why| Failure::Refused(format!("{} cannot be removed: {why}", found.ip)))?
            {
                self.removed += 1;
            }
        }
        self.check_addresses()
    }

    /// The service addresses that are up, on whichever interface.
    fn present(&mut self) -> Result<Vec<Present>, Failure> {
        let mut present =
            self.socket.addresses(None).map_err(|error| Failure::Refused(describe(&error)))?;
        present.retain(|found| self.addresses.contains(&found.ip));
        Ok(present)
    }

    fn check_addresses(&mut self) -> Result<(), Failure> {
        let Some(found) = self.present()?.into_iter().next() else { return Ok(()) };
        let Present { ip, prefix, interface, .. } = found;
        Err(Failure::Refused(format!(
            "the service address {ip}/{prefix} is on interface {interface}, where somebody else put \
             it (`ip address del` removes it)"
        )))
    }

    fn end_work(&mut self) -> Result<(), Failure> {
        let addresses: Vec<IpAddr> = self.addresses.iter().copied().collect();
        if self.sweeper.is_none() {
            match Sweeper::open(&addresses) {
                Ok(sweeper) => self.sweeper = Some(sweeper),
                // Connections are left to end by themselves: said at the start of the daemon.
                Err(SweepError::NoListing { .. } | SweepError::NoDestroying { .. })
                    if !self.strict => {}
                Err(error) => return Err(Failure::Refused(describe(&error))),
            }
        }
        if let Some(sweeper) = &mut self.sweeper {
            clean::sweep(sweeper, &addresses, AT_ONE_GO).map_err(|left| match left {
                Unswept::More { .. } => Failure::Unfinished,
                Unswept::Refused(why) => Failure::Refused(why),
            })?;
        }
        // Nobody sends any more; what was sent while a lease ran may not have left yet.
        self.socket.drop_waiting().map_err(|error| Failure::Refused(describe(&error)))?;
        self.check_addresses()
    }
}

/// Waits for a moment after a failure, before the next try.
fn tried<T>(result: Result<T, Failure>) -> Result<T, Failure> {
    if matches!(result, Err(Failure::Refused(_))) {
        thread::sleep(PAUSE);
    }
    result
}

/// Has the record of a group hold and seek nothing. Returns when its gate was open last, exclusive, in
/// nanoseconds; 0 for never.
fn close(leases: &Leases, group: u8) -> Result<u64, KernelError> {
    let order = |op| leases.order(Order::new(op, group));
    let mut record = order(Op::Read)?.record;
    loop {
        let op = match record.state() {
            State::Holding => Op::Release,
            // A seek may be given up after a while only; this ends it at once. It may have been won
            // between two orders.
            State::Seeking => Op::TermsChanged,
            // Until when packets passed is known after the closing was published.
            State::Idle | State::Released if record.closing().is_some() => Op::Read,
            State::Idle | State::Released => return Ok(record.open_until_ns),
        };
        record = order(op)?.record;
    }
}

/// Removes an address. Returns whether it was there.
pub(super) fn remove_address(socket: &mut AddressSocket, found: &Present) -> Result<bool, String> {
    socket.remove(found).map_err(|error| describe(&error))
}

/// Takes away what the node of a configuration left behind, for a daemon that is gone for good. Returns
/// whether there was anything.
///
/// # Errors
///
/// [`RemovalError`].
pub fn detach(remains: &Remains) -> Result<bool, RemovalError> {
    let Remains { pins, node, addresses, terms, .. } = remains;
    let _state = StateDir::open(&remains.state_dir)?;
    let pinned = pins.exists();
    // Another file may name another state directory than that of the daemon that runs.
    let _lock = if pinned { Some(lock(pins)?) } else { None };
    let mut addresses = addresses.clone();
    // Also those of an earlier file, if neither this one nor a gate names them.
    let present = AddressSocket::open()?.addresses(None)?;
    let found = strays::of_this_cluster(strays::strays(&present, &[]), node.0)?;
    addresses.extend(found.iter().map(|found| found.ip));
    let mut gated = false;
    let records = if pinned {
        addresses.extend(gated_addresses(pins)?);
        records(pins, terms, remains.controller_deadtime_ns)?
    } else if let Some(view) = GateView::find(node.0, node.1)? {
        gated = true;
        addresses.extend(view.vips.iter().map(|vip| vip.address));
        beyond(terms, view.controller_deadtime_ns)
    } else {
        Records::Absent
    };
    let removal = Removal::new(pins, Some(*node), records, addresses, terms.policy())?;
    let (removed, _) = removal.run(None)?;
    Ok(pinned || gated || removed > 0)
}

/// Takes away what a daemon that is gone for good left at `place`. Needs neither configuration nor key
/// for what is pinned.
///
/// # Errors
///
/// [`RemovalError`].
pub(super) fn remove_gate(place: &GatePlace) -> Result<Removed, RemovalError> {
    let pins = &place.pins;
    // Until the end, so that no daemon starts in between.
    let _lock = if pins.exists() { Some(lock(pins)?) } else { None };
    let found = match (GateView::read(pins)?, place.node) {
        (Some(view), _) => {
            let terms = pinned_terms(pins)?;
            let records = records(pins, &terms, view.controller_deadtime_ns)?;
            Some((view, records, terms.policy()))
        }
        (None, Some(GateNode { cluster, id, terms })) => GateView::find(cluster, id)?.map(|view| {
            let records = beyond(&terms, view.controller_deadtime_ns);
            (view, records, terms.policy())
        }),
        (None, None) => None,
    };
    // What was interrupted before it had a gate holds no address either.
    let Some((view, records, policy)) = found else {
        remove_pins(pins)?;
        return Ok(Removed::default());
    };
    let node = place.node.map(|node| (node.cluster, node.id));
    let addresses = view.vips.iter().map(|vip| vip.address).collect();
    let (addresses, _) = Removal::new(pins, node, records, addresses, policy)?.run(None)?;
    Ok(Removed { addresses, interfaces: view.interfaces.len() })
}

/// Undoes a start that failed over pins it made itself.
pub(super) fn undo(
    pins: &Path,
    addresses: BTreeSet<IpAddr>,
    terms: &Terms,
    controller_deadtime_ns: u64,
) -> Result<(), RemovalError> {
    if !pins.exists() {
        return Ok(());
    }
    let _lock = lock(pins)?;
    let records = records(pins, terms, controller_deadtime_ns)?;
    Removal::new(pins, None, records, addresses, terms.policy())?.run(None).map(drop)
}

fn lock(pins: &Path) -> Result<PinsLock, RemovalError> {
    PinsLock::take(pins)?.ok_or_else(|| RemovalError::InUse(pins.to_owned()))
}

/// Returns how the records pinned at `pins` are reached by whoever is no daemon, and holds the lock.
/// `terms` are those of the configuration.
fn records(
    pins: &Path,
    terms: &Terms,
    controller_deadtime_ns: u64,
) -> Result<Records, KernelError> {
    // They may be of another version, or of a start that was interrupted early.
    if Kernel::check(pins).is_err() {
        return Ok(beyond(terms, controller_deadtime_ns));
    }
    match Leases::pinned(pins)? {
        Some(leases) => Ok(Records::Reached(Box::new(leases), pinned_terms(pins)?)),
        None => Ok(beyond(terms, controller_deadtime_ns)),
    }
}

/// Returns when no record that cannot be reached holds any more: no daemon asks for a lease, so each ends
/// within the longest there is, or with the controller's age.
fn beyond(terms: &Terms, controller_deadtime_ns: u64) -> Records {
    let longest = terms.amnesia_ns().max(controller_deadtime_ns.saturating_add(terms.wait_ns()));
    Records::Beyond(BootTime(clock::now().ns().saturating_add(longest)))
}
