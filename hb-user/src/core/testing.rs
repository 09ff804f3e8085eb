//! A small cluster to test with.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    wire::{Be64, GROUPS, GroupWord, Health, State},
};

use super::{Aside, Bounds, GroupSetup, Life, PeerFacts, ResourceBounds, Setup};
use crate::id::{GroupId, NodeId};

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const GROUP: GroupId = GroupId(0);

pub(crate) fn setup(me: NodeId) -> Setup {
    let second = Duration::from_secs(1);
    Setup {
        me,
        nodes: vec![A, B],
        groups: vec![GroupSetup {
            id: GROUP,
            preferred: Some(A),
            auto_failback: Some(Duration::ZERO),
            failure_timeout: Some(second * 600),
            links: 1,
            resources: Some(ResourceBounds {
                start: second * 20,
                stop: second * 20,
                block: true,
                restarts: None,
            }),
            resumed: None,
        }],
        witness: None,
        promises: true,
        aside: Aside::Nothing,
        bounds: Bounds {
            initdead: second * 10,
            seek: Duration::from_millis(10),
            promise: Duration::from_millis(3),
            fence: None,
            fence_retry: second * 5,
            contend: Duration::from_millis(2),
            take: second,
            drop: second,
            retry: second / 2,
            patience: second * 2,
            hold_down: second / 2,
            route_loss: second / 4,
            linger: Duration::from_millis(2),
        },
    }
}

pub(crate) fn facts(state: State, health: Health, epoch: Epoch) -> PeerFacts {
    let mut words = [GroupWord::default(); GROUPS];
    words[0] = GroupWord {
        state: state as u8,
        health: health as u8,
        epoch: Be64::new(epoch.0),
        ..GroupWord::default()
    };
    PeerFacts { life: Life::Alive, incarnation: 1, words, ..PeerFacts::default() }
}
