//! A gate that closes: since when is read after it was published, and the vote waits from there.

use hb_ebpf::{
    lease::{CLOSING, Policy, Record, op::Op},
    time::BootTime,
    wire::State,
};
use hb_user::{clock, id::GroupId};

use super::{
    gate::{Gated, LONG},
    rig::identity,
};

fn record(gated: &Gated) -> Record {
    gated.rig.shared.record(GroupId(0)).unwrap()
}

/// Closes an open gate by `close`, and checks what the record says of when.
fn closes(policy: Policy, what: &str, close: impl Fn(&mut Gated)) {
    let mut gated = Gated::new(policy, LONG);
    if policy == Policy::Available {
        gated.order(Op::Seek);
    } else {
        gated.win(LONG);
    }
    assert_eq!(gated.state(), State::Holding, "{what}");
    assert_eq!(record(&gated).open_until_ns, 0, "{what}");
    let before = clock::now().ns();
    close(&mut gated);
    let after = clock::now().ns();
    assert_ne!(gated.state(), State::Holding, "{what}");
    let told = record(&gated).open_until_ns;
    assert_ne!(told, CLOSING, "{what}: nobody ever told when");
    assert!(before < told && told <= after + 1, "{what}: {before} {told} {after}");
}

#[test]
fn every_way_to_close_a_gate_tells_when_it_was_closed() {
    closes(Policy::Witness, "release", |gated| {
        gated.order(Op::Release);
    });
    closes(Policy::Witness, "other terms", |gated| {
        gated.order(Op::TermsChanged);
    });
    closes(Policy::Witness, "a new record", |gated| {
        gated.order(Op::Start);
    });
    for policy in [Policy::Witness, Policy::Available] {
        closes(policy, "a dead controller", |gated| {
            let dead = clock::now().ns() - identity().controller_deadtime_ns - 1;
            gated.rig.shared.stamp_controller(BootTime(dead));
            let probe = gated.sender.probe();
            gated.rig.run(&probe);
        });
    }
}
