//! What the core is told at its start.

use std::time::Duration;

use hb_ebpf::{epoch::Epoch, wire::State};

use crate::{
    config::{
        Config, Failure, Fence, Group, InterfaceName, Local, Policy, Resource, StopFailure, Timeout,
    },
    core::{Aside, Bounds, GroupSetup, ResourceBounds, Restarts, Setup},
    id::GroupId,
    kernel::Shared,
};

/// Before a fence that failed is tried again: an operator may be at the power switch.
const FENCE_RETRY: Duration = Duration::from_secs(5);

/// Longer than a port that comes and goes stays, and than the kernel holds the news of it back.
const HOLD_DOWN: Duration = Duration::from_secs(2);

/// A network manager that starts again, or renews a lease, takes addresses away and puts them back: that
/// takes less, and a move would cost more.
const ROUTE_LOSS: Duration = Duration::from_secs(2);

/// Returns the epoch at which the record holds a group.
pub(super) fn held(shared: &Shared, group: GroupId) -> Option<Epoch> {
    let record = shared.record(group)?;
    (record.state() == State::Holding).then_some(Epoch(record.epoch))
}

/// Returns how the core treats the resources of a group. It allows them what the workers do, and then some.
pub(super) fn resource_bounds(group: &Group) -> Option<ResourceBounds> {
    let slack = Duration::from_secs(5);
    let sum = |time: fn(&Resource) -> Timeout| {
        group.resources.iter().map(|resource| time(resource).get()).sum::<Duration>()
    };
    // A start may look twice whether it is needed, and a stop that failed once whether it was.
    let status = sum(|resource| resource.status_timeout);
    let stop = sum(|resource| resource.stop_timeout) + status + slack;
    let start = sum(|resource| resource.start_timeout) + status * 2 + stop;
    let block = group.on_stop_failure == StopFailure::Block;
    let restarts = match group.on_failure {
        Failure::Move => None,
        Failure::Restart { most, window } => Some(Restarts { most, window }),
    };
    (!group.resources.is_empty()).then_some(ResourceBounds { start, stop, block, restarts })
}

/// Returns the links on interfaces of a group's addresses, a bit each.
pub(super) fn links_beside(local: &Local, group: &Group) -> u8 {
    let here = |name: &InterfaceName| {
        group.addresses.iter().any(|address| address.interface(local.me.id) == Some(name))
    };
    let beside = local.links.iter().filter(|link| here(&link.own.interface));
    beside.fold(0, |links, link| links | 1 << link.id.0)
}

pub(super) fn core_setup(config: &Config, local: &Local, shared: &Shared, aside: Aside) -> Setup {
    let groups = config.groups.iter().map(|group| GroupSetup {
        id: group.id,
        preferred: Some(group.preferred),
        auto_failback: group.auto_failback,
        failure_timeout: group.failure_timeout,
        links: links_beside(local, group),
        resources: resource_bounds(group),
        resumed: held(shared, group.id),
    });
    Setup {
        me: local.me.id,
        nodes: config.nodes.iter().map(|node| node.id).collect(),
        groups: groups.collect(),
        witness: local.witness.as_ref().map(|witness| witness.id),
        promises: config.cluster.policy != Policy::Available,
        aside,
        bounds: Bounds {
            initdead: config.timers.initdead(),
            seek: match config.cluster.policy {
                // The record holds at once; only the fast path may be late.
                Policy::Available => Duration::from_secs(2),
                Policy::Witness | Policy::Safe => config.lease.seek,
            },
            promise: config.lease.promise(),
            fence: config.fence.as_ref().map(Fence::longest),
            fence_retry: FENCE_RETRY,
            contend: config.timers.interval() * 2,
            take: Duration::from_secs(2),
            drop: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            patience: Duration::from_secs(2),
            hold_down: HOLD_DOWN,
            route_loss: ROUTE_LOSS,
            linger: config.timers.interval() * 2,
        },
    }
}
