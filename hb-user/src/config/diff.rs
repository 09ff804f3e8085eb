//! Which keys of two configurations of one node differ, and which of them can be changed while it runs.

use std::{collections::BTreeSet, fmt};

use super::{
    Cluster, Config, Gate, Group, LeaseTiming, Link, LinkEnd, Log, Name, Policy, Resource,
    ResourceKind, ServiceAddress, Timers,
};

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which, as `log.level` or `group.web.address`.
    pub key: String,
    /// How it is taken.
    pub way: Way,
}

/// How a daemon takes what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// At once.
    Live,
    /// Once every node that lives goes by the same file.
    Agreed,
    /// One after the other, as long as every other machine is heard on a link that stays.
    Link,
    /// Groups that are as they were go on. Every other one is given up in order, then begins anew.
    Group,
    /// By a restart only.
    Restart,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

/// What was found so far.
#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn restart<T: PartialEq + ?Sized>(&mut self, key: impl fmt::Display, old: &T, new: &T) {
        self.compare(key, old, new, Way::Restart);
    }

    fn live<T: PartialEq + ?Sized>(&mut self, key: impl fmt::Display, old: &T, new: &T) {
        self.compare(key, old, new, Way::Live);
    }

    fn group<T: PartialEq + ?Sized>(&mut self, key: impl fmt::Display, old: &T, new: &T) {
        self.compare(key, old, new, Way::Group);
    }

    fn link<T: PartialEq + ?Sized>(&mut self, key: impl fmt::Display, old: &T, new: &T) {
        self.compare(key, old, new, Way::Link);
    }

    fn compare<T: PartialEq + ?Sized>(
        &mut self,
        key: impl fmt::Display,
        old: &T,
        new: &T,
        way: Way,
    ) {
        if old != new {
            self.0.push(Difference { key: key.to_string(), way });
        }
    }
}

impl Config {
    /// Returns the keys whose values differ in `new`. Where a record lies is no key.
    #[must_use]
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Found::default();
        // Taken apart, so that no key is forgotten here.
        let Self {
            cluster,
            timers,
            lease,
            nodes,
            witness,
            links,
            groups,
            pings,
            notifies,
            fence,
            gate,
            log,
            path: _,
        } = self;
        of_cluster(&mut found, cluster, &new.cluster);
        of_timers(&mut found, timers, &new.timers);
        let LeaseTiming { length, margin, drain, seek, rho } = lease;
        // Without promises they are used for nothing.
        let promises = cluster.policy != Policy::Available;
        let way = if promises { Way::Restart } else { Way::Live };
        found.compare("lease.length", length, &new.lease.length, way);
        found.compare("lease.margin", margin, &new.lease.margin, way);
        found.compare("lease.drain", drain, &new.lease.drain, way);
        found.compare("lease.seek", seek, &new.lease.seek, way);
        found.compare("lease.rho", rho, &new.lease.rho, way);
        found.restart("node", nodes, &new.nodes);
        found.restart("witness", witness, &new.witness);
        of_links(&mut found, links, &new.links);
        of_groups(&mut found, groups, &new.groups);
        found.live("ping", pings, &new.pings);
        found.live("notify", notifies, &new.notifies);
        found.restart("fence", fence, &new.fence);
        let Gate { mode, handover_bounce } = gate;
        found.restart("gate.mode", mode, &new.gate.mode);
        found.restart("gate.handover_bounce", handover_bounce, &new.gate.handover_bounce);
        let Log { format, level } = log;
        found.restart("log.format", format, &new.log.format);
        found.live("log.level", level, &new.log.level);
        found.0
    }

    /// Returns the groups that this configuration does not have, by `Way::Group` of
    /// [`Config::differences`], as they are in `other`: their names.
    #[must_use]
    pub fn groups_unlike<'a>(&'a self, other: &'a Self) -> Vec<&'a Name> {
        let unlike = |group: &&Group| {
            let Some(own) = self.groups.iter().find(|own| own.name == group.name) else {
                return true;
            };
            let mut found = Found::default();
            of_group(&mut found, own, group);
            found.0.iter().any(|found| found.way == Way::Group)
        };
        other.groups.iter().filter(unlike).map(|group| &group.name).collect()
    }

    /// Takes what [`Config::differences`] calls live from `new`.
    pub fn adopt(&mut self, new: &Self) {
        self.log.level = new.log.level;
        self.timers = new.timers;
        if self.cluster.policy == Policy::Available {
            self.lease = new.lease;
        }
        self.pings.clone_from(&new.pings);
        self.notifies.clone_from(&new.notifies);
        self.cluster.network_wait = new.cluster.network_wait;
        for group in &mut self.groups {
            let Some(other) = new.groups.iter().find(|other| other.name == group.name) else {
                continue;
            };
            group.preferred = other.preferred;
            group.auto_failback = other.auto_failback;
            group.failure_timeout = other.failure_timeout;
            group.on_failure = other.on_failure;
            group.on_stop_failure = other.on_stop_failure;
            for (resource, new) in group.resources.iter_mut().zip(&other.resources) {
                if let (
                    ResourceKind::Ocf { check_level, .. },
                    ResourceKind::Ocf { check_level: new, .. },
                ) = (&mut resource.kind, &new.kind)
                {
                    *check_level = *new;
                }
                resource.start_timeout = new.start_timeout;
                resource.stop_timeout = new.stop_timeout;
                resource.status_timeout = new.status_timeout;
                resource.status_interval = new.status_interval;
                resource.pid_file.clone_from(&new.pid_file);
                resource.checks.clone_from(&new.checks);
            }
        }
    }
}

fn of_cluster(found: &mut Found, old: &Cluster, new: &Cluster) {
    let Cluster { name, key_file, policy, state_dir, control_socket, engine, network_wait } = old;
    found.restart("cluster.name", name, &new.name);
    found.restart("cluster.key_file", key_file, &new.key_file);
    found.restart("cluster.policy", policy, &new.policy);
    found.restart("cluster.state_dir", state_dir, &new.state_dir);
    found.restart("cluster.control_socket", control_socket, &new.control_socket);
    found.restart("cluster.engine", engine, &new.engine);
    found.live("cluster.network_wait", network_wait, &new.network_wait);
}

fn of_timers(found: &mut Found, old: &Timers, new: &Timers) {
    type Timer = fn(&Timers) -> std::time::Duration;
    let timers: [(&str, Timer, Way); 6] = [
        ("interval", Timers::interval, Way::Agreed),
        ("warntime", Timers::warntime, Way::Agreed),
        ("deadtime", Timers::deadtime, Way::Agreed),
        ("initdead", Timers::initdead, Way::Agreed),
        // The main loop goes round by it.
        ("controller_deadtime", Timers::controller_deadtime, Way::Restart),
        ("doubt_max", Timers::doubt_max, Way::Agreed),
    ];
    for (key, timer, way) in timers {
        found.compare(format_args!("timers.{key}"), &timer(old), &timer(new), way);
    }
}

fn of_links(found: &mut Found, old: &[Link], new: &[Link]) {
    let names = |links: &[Link]| links.iter().map(|link| link.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    found.link(order("link", &before, &after), &before, &after);
    for old in old {
        let Some(new) = new.iter().find(|new| new.name == old.name) else { continue };
        let Link { id: _, name, transport, multihop, attach, ends } = old;
        found.link(format_args!("link.{name}.transport"), transport, &new.transport);
        found.link(format_args!("link.{name}.multihop"), multihop, &new.multihop);
        found.restart(format_args!("link.{name}.attach"), attach, &new.attach);
        let place = |end: &LinkEnd| (end.interface.clone(), end.address);
        let before: Vec<_> = ends.iter().map(|(node, end)| (*node, place(end))).collect();
        let after: Vec<_> = new.ends().map(|(node, end)| (node, place(end))).collect();
        found.link(format_args!("link.{name}.node"), &before, &after);
    }
}

fn of_groups(found: &mut Found, old: &[Group], new: &[Group]) {
    let names =
        |groups: &[Group]| groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    found.group(order("group", &before, &after), &before, &after);
    for old in old {
        let Some(new) = new.iter().find(|new| new.name == old.name) else { continue };
        of_group(found, old, new);
    }
}

/// Names what is new or gone, or says that only the order differs.
fn order<T: Ord + fmt::Display>(what: &str, old: &[T], new: &[T]) -> String {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let changed: Vec<_> =
        old.symmetric_difference(&new).map(|name| format!("{what}.{name}")).collect();
    if changed.is_empty() { format!("order of {what}s") } else { changed.join(", ") }
}

fn of_group(found: &mut Found, old: &Group, new: &Group) {
    let Group {
        id: _,
        name,
        preferred,
        auto_failback,
        failure_timeout,
        on_failure,
        on_stop_failure,
        warm_addresses,
        require,
        addresses,
        resources,
    } = old;
    let key = |key: &str| format!("group.{name}.{key}");
    found.live(key("preferred"), preferred, &new.preferred);
    found.live(key("auto_failback"), auto_failback, &new.auto_failback);
    found.live(key("failure_timeout"), failure_timeout, &new.failure_timeout);
    found.live(key("on_failure"), on_failure, &new.on_failure);
    found.live(key("on_stop_failure"), on_stop_failure, &new.on_stop_failure);
    found.group(key("warm_addresses"), warm_addresses, &new.warm_addresses);
    found.group(key("require"), require, &new.require);
    let place = |one: &ServiceAddress| {
        let ServiceAddress { address, prefix, on_link, interfaces, .. } = one;
        (*address, *prefix, *on_link, interfaces.clone())
    };
    let places = |all: &[ServiceAddress]| all.iter().map(place).collect::<Vec<_>>();
    found.group(key("address"), &places(addresses), &places(&new.addresses));
    let names = |all: &[Resource]| all.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(resources), names(&new.resources));
    if before != after {
        return found.group(key(&order("resource", &before, &after)), &before, &after);
    }
    for (old, new) in resources.iter().zip(&new.resources) {
        let Resource {
            name,
            kind,
            start_timeout,
            stop_timeout,
            status_timeout,
            status_interval,
            pid_file,
            checks,
        } = old;
        let key = |what: &str| key(&format!("resource.{name}.{what}"));
        of_kind(found, key, kind, &new.kind);
        found.live(key("start_timeout"), start_timeout, &new.start_timeout);
        found.live(key("stop_timeout"), stop_timeout, &new.stop_timeout);
        found.live(key("status_timeout"), status_timeout, &new.status_timeout);
        found.live(key("status_interval"), status_interval, &new.status_interval);
        found.live(key("pid_file"), pid_file, &new.pid_file);
        found.live(key("check"), checks, &new.checks);
    }
}

/// Names the keys by which two kinds differ.
fn of_kind(
    found: &mut Found,
    key: impl Fn(&str) -> String,
    old: &ResourceKind,
    new: &ResourceKind,
) {
    match (old, new) {
        (
            ResourceKind::Script { program, args },
            ResourceKind::Script { program: new_program, args: new_args },
        ) => {
            found.group(key("program"), program, new_program);
            found.group(key("args"), args, new_args);
        }
        (
            ResourceKind::Ocf { provider, agent, params, check_level },
            ResourceKind::Ocf {
                provider: new_provider,
                agent: new_agent,
                params: new_params,
                check_level: new_level,
            },
        ) => {
            found.group(key("agent"), &(provider, agent), &(new_provider, new_agent));
            found.group(key("params"), params, new_params);
            found.live(key("check_level"), check_level, new_level);
        }
        (ResourceKind::Lsb { program }, ResourceKind::Lsb { program: new }) => {
            found.group(key("program"), program, new);
        }
        (
            ResourceKind::Heartbeat { script, args },
            ResourceKind::Heartbeat { script: new_script, args: new_args },
        ) => {
            found.group(key("agent"), &(script, args), &(new_script, new_args));
        }
        _ => found.group(key("type"), old.as_str(), new.as_str()),
    }
}
