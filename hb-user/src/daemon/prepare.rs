//! Everything that can be found wrong before anything is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hb_ebpf::lease::{Terms, TermsError};

use super::{
    advice,
    agents::{self, AgentError},
    strays::strays,
};
use crate::{
    address::{AddressError, AddressSocket, Conflict, InvalidVip, Present, Standing, Vip},
    config::{
        CheckKind, Config, ConfigErrors, HostView, IdentifyError, Local, Policy, Queue, hostname,
    },
    id::NodeId,
    kernel::stranger,
    key::{ClusterKeys, KeyError},
    resource::Roots,
    trust::{self, Untrusted},
};

/// Why a node cannot start, found before anything was changed.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The configuration is wrong, by itself or for this host.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Somebody else may change it, or a program that it names.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// A resource does not fit its agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// This host is no node of it.
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    /// The keys are of no use.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The host does not tell its name or interfaces.
    #[error("cannot read {what} of this host")]
    Host {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The addresses of the host cannot be listed.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The voters or the lengths of leases.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// A service address is impossible.
    #[error(transparent)]
    Vip(#[from] InvalidVip),
    /// A service address is in the way of itself.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A service address was put up by somebody else.
    #[error(
        "VIP {vip} is on this host already as /{prefix} and was not put there by hb: remove it from \
         the operating system's network configuration (`ip address del`), hb adds and removes it"
    )]
    Foreign {
        /// The address.
        vip: Vip,
        /// Its prefix there, in bits.
        prefix: u8,
    },
}

impl PrepareError {
    /// Returns whether nothing is wrong but that this host lacks what may come yet: an interface, or an
    /// address of this node.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Config(errors) if errors.may_pass())
    }
}

/// A service address with what announcing it needs.
#[derive(Clone, Debug)]
pub struct LocalVip {
    /// The address and its place.
    pub vip: Vip,
    /// Name of the interface.
    pub interface: String,
    /// MAC address of the interface.
    pub mac: [u8; 6],
    /// Prefix length of the subnet that its neighbours are in, in bits; none if it is in no subnet.
    pub subnet: Option<u8>,
}

/// A node that could start.
#[derive(Debug)]
pub struct Prepared {
    /// The configuration.
    pub config: Config,
    /// As this node sees it.
    pub local: Local,
    /// The keys.
    pub keys: ClusterKeys,
    /// Interfaces of the links, by name, with index and MAC address.
    pub interfaces: BTreeMap<String, (u32, Option<[u8; 6]>)>,
    /// The service addresses of each group.
    pub vips: Vec<Vec<LocalVip>>,
    /// Addresses that hb put up earlier and that the configuration no longer names, in their place.
    pub stray: Vec<Present>,
}

impl Prepared {
    /// Returns what to say of the queues of interfaces with service addresses where packets may wait
    /// for longer than `margin`, one sentence each.
    #[must_use]
    pub fn slow_queues(&self) -> Vec<String> {
        if self.config.cluster.policy == Policy::Available {
            return Vec::new();
        }
        let margin = self.config.lease.margin;
        let interfaces: BTreeSet<_> =
            self.vips.iter().flatten().map(|vip| vip.interface.as_str()).collect();
        let queues = interfaces.into_iter().filter_map(|name| Some((name, Queue::read(name)?)));
        queues.filter_map(|(interface, queue)| queue.slower_than(margin, interface)).collect()
    }
}

impl Prepared {
    /// Returns what an operator should look at before the node starts, one sentence each.
    ///
    /// # Errors
    ///
    /// [`PrepareError::Host`], [`PrepareError::Addresses`].
    pub fn warnings(&self) -> Result<Vec<String>, PrepareError> {
        let host = HostView::read().map_err(unread("the interfaces"))?;
        let interfaces = AddressSocket::open()?.interfaces()?;
        let taken = interfaces.into_iter().filter_map(|found| Some((found.name, found.xdp?)));
        let taken = taken.filter_map(|(interface, id)| Some((interface, stranger(id)?))).collect();
        Ok(advice::advice(&self.config, &self.local, &host, &taken))
    }
}

/// A node as its files are: what this host has is not looked at yet.
#[derive(Debug)]
pub struct Plan {
    /// The configuration.
    pub config: Config,
    /// As this node sees it.
    pub local: Local,
    /// The keys.
    pub keys: ClusterKeys,
}

/// What of this host a [`Plan`] needs; see [`Prepared`].
#[derive(Debug)]
pub struct Fit {
    interfaces: BTreeMap<String, (u32, Option<[u8; 6]>)>,
    vips: Vec<Vec<LocalVip>>,
    stray: Vec<Present>,
}

/// Checks the configuration at `path`, what it names, and the keys. Changes nothing.
///
/// # Errors
///
/// [`PrepareError`], of which none passes by itself.
pub fn plan(path: &Path, node: Option<&str>) -> Result<Plan, PrepareError> {
    let mut config = Config::load(path)?;
    trust::check(path)?;
    let roots = Roots::default();
    let resources = config.groups.iter().flat_map(|group| &group.resources);
    for resource in resources {
        if let Some(program) = roots.program(&resource.kind) {
            trust::check_program(&program)?;
        }
        for check in &resource.checks {
            if let CheckKind::Exec { command } = &check.kind
                && let Some(program) = command.first()
            {
                trust::check_program(Path::new(program))?;
            }
        }
    }
    for program in config.notifies.iter().filter_map(|notify| notify.command.first()) {
        trust::check_program(Path::new(program))?;
    }
    if let Some(fence) = &config.fence {
        trust::check_program(&fence.command)?;
    }
    let hostname = hostname().map_err(unread("the name"))?;
    let local = config.identify(node, &hostname)?;
    let keys = ClusterKeys::load(&config.cluster.key_file)?;
    agents::ask(&mut config, &local, &roots)?;
    Ok(Plan { config, local, keys })
}

fn unread(what: &'static str) -> impl Fn(io::Error) -> PrepareError {
    move |source| PrepareError::Host { what, source }
}

/// Checks the configuration at `path`, the keys, and this host against them. Changes nothing.
///
/// # Errors
///
/// [`PrepareError`].
pub fn prepare(path: &Path, node: Option<&str>) -> Result<Prepared, PrepareError> {
    let plan = plan(path, node)?;
    let fit = plan.fit()?;
    Ok(plan.on(fit))
}

impl Plan {
    /// Checks this host against it. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`PrepareError`]; [`PrepareError::may_pass`] tells whether to look again is worth while.
    pub fn fit(&self) -> Result<Fit, PrepareError> {
        let Self { config, local, .. } = self;
        let host = HostView::read().map_err(unread("the interfaces"))?;
        config.check_host(local, &host)?;
        let present = AddressSocket::open()?.addresses(None)?;
        let vips = vips(config, local, &host)?;
        let stray = strays(&present, &vips);
        // They go first, so they are in nobody's way.
        let others: Vec<_> = present.into_iter().filter(|found| !stray.contains(found)).collect();
        for local in vips.iter().flatten() {
            if let Standing::Foreign { prefix, .. } = local.vip.standing(&others)? {
                return Err(PrepareError::Foreign { vip: local.vip, prefix });
            }
        }
        let interfaces = local
            .links
            .iter()
            .filter_map(|link| host.interface(link.own.interface.as_str()))
            .map(|found| (found.name.clone(), (found.index, found.mac)))
            .collect();
        Ok(Fit { interfaces, vips, stray })
    }

    /// Returns the node that can start on this host.
    #[must_use]
    pub fn on(self, fit: Fit) -> Prepared {
        let Self { config, local, keys } = self;
        let Fit { interfaces, vips, stray } = fit;
        Prepared { config, local, keys, interfaces, vips, stray }
    }
}

/// Returns the service addresses of each group of the file whose interfaces are there.
fn vips(
    config: &Config,
    local: &Local,
    host: &HostView,
) -> Result<Vec<Vec<LocalVip>>, PrepareError> {
    let mut vips = Vec::new();
    for group in &config.groups {
        let mut found = Vec::new();
        for address in &group.addresses {
            let Some(name) = address.interface(local.me.id) else { continue };
            let Some(interface) = host.interface(name.as_str()) else { continue };
            let vip = Vip::new(interface.index, address.address, address.prefix)?;
            let mac = interface.mac.unwrap_or_default();
            found.push(LocalVip {
                vip,
                interface: interface.name.clone(),
                mac,
                subnet: address.on_link.then_some(address.prefix),
            });
        }
        vips.push(found);
    }
    Ok(vips)
}

/// What a node may have left behind.
#[derive(Debug)]
pub struct Remains {
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Where its kernel half is pinned.
    pub pins: PathBuf,
    /// Its cluster and itself, by their ids.
    pub node: (u32, NodeId),
    /// Its service addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// By what it promised, as far as the configuration is still the same.
    pub terms: Terms,
    /// When the kernel half takes its daemon for dead, in nanoseconds.
    pub controller_deadtime_ns: u64,
}

/// Finds what the node of the configuration at `path` may have left behind. Asks for no key and
/// no interface: what is gone needs no removal.
///
/// # Errors
///
/// [`PrepareError`].
pub fn remains(path: &Path, node: Option<&str>) -> Result<Remains, PrepareError> {
    let config = Config::load(path)?;
    let hostname = hostname().map_err(unread("the name"))?;
    let local = config.identify(node, &hostname)?;
    Ok(Remains {
        pins: pins(&config, &local),
        node: (config.cluster_id(), local.me.id),
        addresses: addresses(&config),
        terms: config.terms(local.me.id)?,
        controller_deadtime_ns: config.timers.controller_deadtime().as_nanos() as u64,
        state_dir: local.state_dir,
    })
}

/// Returns the service addresses of a configuration.
pub(super) fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    let addresses = config.groups.iter().flat_map(|group| &group.addresses);
    addresses.map(|address| address.address).collect()
}

/// Returns where the kernel half of a node is pinned.
#[must_use]
pub fn pins(config: &Config, local: &Local) -> PathBuf {
    Path::new("/sys/fs/bpf/hb").join(config.cluster.name.as_str()).join(local.me.name.as_str())
}
