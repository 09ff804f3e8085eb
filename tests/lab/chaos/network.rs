//! A cable, a port or an interface of one node fails, and no machine: what has to come of it.

use std::{net::IpAddr, time::Duration};

use hb_ebpf::time::BootTime;

use super::{Lengths, Plan, plan::Random};
use crate::{
    addresses::{Link, NODES},
    faults::{Fault, Kind, NETWORK, Planned},
    judge::{Departure, verdict},
    switch::Direction,
};

/// Whoever is hit by a fault has it for longer than the service may be away.
const LONGER: Duration = Duration::from_secs(2);
/// The kernel tells of a carrier within a second, and the machine may be busy.
const CARRIER: Duration = Duration::from_millis(1500);
/// That a port is silent takes 1.5 s to be seen, and one more to be sure of.
const SILENCE: Duration = Duration::from_millis(4500);
/// A node says for so long that it hears one that it hears no more (`L_max`).
const STILL_HEARD: Duration = Duration::from_secs(2);
/// A client of a holder that is well may wait so long for a machine that is busy.
const UNTOUCHED: Duration = Duration::from_millis(500);

/// Plans a run: one fault of one node, which lasts longer than the service may be away.
pub(super) fn plan(random: &mut Random, kinds: &[Kind], lengths: &Lengths) -> Option<Plan> {
    let kind = random.one_of(kinds)?;
    let node = random.one_of(&NODES)?;
    let service = Some(Link::Client);
    let link = match kind {
        // What flaps on every link at once is a crash, again and again.
        Kind::Flap | Kind::Late => service,
        _ => random.one_of(&[service, service, Some(Link::Direct), None])?,
    };
    let direction = match kind {
        Kind::Silent => {
            random.one_of(&[Direction::Both, Direction::FromMachine, Direction::ToMachine])?
        }
        _ => Direction::Both,
    };
    let fault = Fault { link, direction, ..Fault::of(kind, node) };
    let from = Duration::from_millis(random.below(300));
    let until = from + bound(&fault, lengths) + LONGER + Duration::from_millis(random.below(1000));
    Some(Plan { faults: vec![Planned { fault, from, until }], broken: Vec::new() })
}

/// Tells whether a plan is one of these: its fault lasts for long enough to be judged.
pub(super) fn is_network(plan: &Plan, lengths: &Lengths) -> bool {
    let [only] = plan.faults.as_slice() else { return false };
    let lasts = only.until.saturating_sub(only.from);
    NETWORK.contains(&only.fault.kind) && lasts >= bound(&only.fault, lengths) + LONGER
}

/// How long after such a fault the other node may take to serve.
fn bound(fault: &Fault, lengths: &Lengths) -> Duration {
    let rules = lengths.longest_promise();
    match (fault.kind, fault.direction) {
        (Kind::Silent, Direction::FromMachine) => SILENCE + STILL_HEARD + rules,
        (Kind::Silent, _) => SILENCE + rules,
        _ => CARRIER + rules,
    }
}

/// Returns what is wrong with what came of `planned`, which lasted from `began` to `ended`: the service of
/// an address moved to the node that is worse off, or more than once, or was away for too long.
pub(super) fn failures(
    planned: &Planned,
    lengths: &Lengths,
    answers: &[Departure],
    addresses: &[IpAddr],
    (began, ended): (BootTime, BootTime),
) -> Vec<String> {
    let fault = planned.fault;
    let mut failures = Vec::new();
    for &address in addresses {
        let of: Vec<_> = answers.iter().filter(|answer| answer.address == address).collect();
        let before = of.iter().rev().find(|answer| answer.at <= began);
        let Some(holder) = before.map(|answer| answer.node) else {
            failures.push(format!("nobody served {address} before the fault"));
            continue;
        };
        let during: Vec<_> =
            of.iter().filter(|answer| answer.at > began && answer.at < ended).collect();
        let hit = holder == fault.node && fault.link != Some(Link::Direct);
        // A standby that is cut off from everybody takes a vote along, which the holder replaces.
        let alone = fault.link.is_none();
        let silence = verdict::longest_silence(answers, address, began, ended);
        let most = if hit || alone { bound(&fault, lengths) } else { UNTOUCHED };
        let away = Duration::from_nanos(silence.ns);
        if away > most {
            let after = silence.from.since(began);
            failures.push(format!(
                "{address} of {holder} was away for {away:?} from {after:?} after the fault, and {most:?} are \
                 allowed"
            ));
        }
        let moves = during.windows(2).filter(|pair| pair[0].node != pair[1].node).count();
        let end = during.last().map(|answer| answer.node);
        let right = if hit && fault.kind != Kind::Flap { Some(holder.peer()) } else { end };
        if !hit && (moves > 0 || end.is_some_and(|node| node != holder)) {
            failures.push(format!("{address} left {holder}, which is well"));
        } else if end != right {
            failures.push(format!("{address} is not served by {}, which is well", holder.peer()));
        } else if moves > 1 {
            failures.push(format!("{address} moved {moves} times"));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::{Machine, VIPS};

    const SECOND: u64 = 1_000_000_000;

    /// Answers every 10 ms: `a` until `until`, then `b` from `from` on, in milliseconds.
    fn answers(until: u64, from: u64, end: u64) -> Vec<Departure> {
        let answer = |ms: u64, node| Departure {
            at: BootTime(ms * 1_000_000),
            node,
            address: VIPS[0],
            epoch: 1,
            asked: BootTime(0),
        };
        let a = (0..until).step_by(10).map(|ms| answer(ms, Machine::A));
        let b = (from..end).step_by(10).map(|ms| answer(ms, Machine::B));
        a.chain(b).collect()
    }

    fn judge(fault: Fault, answers: &[Departure]) -> Vec<String> {
        let planned = Planned { fault, from: Duration::ZERO, until: Duration::from_secs(9) };
        let times = (BootTime(SECOND), BootTime(10 * SECOND));
        failures(&planned, &Lengths::default(), answers, &VIPS[..1], times)
    }

    fn of(kind: Kind, node: Machine, link: Option<Link>) -> Fault {
        Fault { link, ..Fault::of(kind, node) }
    }

    #[test]
    fn a_move_to_the_node_that_is_well_is_good_and_every_other_is_not() {
        let service = Some(Link::Client);
        let moved = answers(1000, 1500, 12_000);
        let stayed = answers(12_000, 12_000, 12_000);
        let late = answers(1000, 7500, 12_000);
        let hit = of(Kind::Carrier, Machine::A, service);
        assert_eq!(judge(hit, &moved), [""; 0]);
        assert!(judge(hit, &stayed)[0].contains("is not served by b"));
        assert!(judge(hit, &late)[0].contains("away for 6.5"));
        assert!(judge(of(Kind::Silent, Machine::A, service), &late)[0].contains("away"));
        for fault in [
            of(Kind::Carrier, Machine::B, service),
            of(Kind::Carrier, Machine::A, Some(Link::Direct)),
            of(Kind::LinkDown, Machine::B, None),
        ] {
            assert_eq!(judge(fault, &stayed), [""; 0], "{fault}");
            let said = judge(fault, &moved);
            assert!(said.iter().any(|text| text.contains("left a")), "{fault}: {said:?}");
        }
        assert!(judge(hit, &[])[0].contains("nobody served"));
    }

    #[test]
    fn what_flaps_moves_the_service_once_at_most() {
        let flaps = of(Kind::Flap, Machine::A, Some(Link::Client));
        assert_eq!(judge(flaps, &answers(12_000, 12_000, 12_000)), [""; 0]);
        assert_eq!(judge(flaps, &answers(1000, 1200, 12_000)), [""; 0]);
        let mut all = answers(2000, 2200, 4000);
        all.extend(answers(12_000, 12_000, 12_000).into_iter().filter(|a| a.at.0 > 4 * SECOND));
        assert!(judge(flaps, &all)[0].contains("moved 2 times"));
    }

    #[test]
    fn every_place_comes_up() {
        let plans: Vec<_> = (0..400)
            .filter_map(|seed| plan(&mut Random::new(seed), &NETWORK, &Lengths::default()))
            .collect();
        assert_eq!(plans.len(), 400);
        assert!(plans.iter().all(|plan| is_network(plan, &Lengths::default())));
        let mut brief = plans[0].clone();
        brief.faults[0].until = brief.faults[0].from + Duration::from_millis(10);
        assert!(!is_network(&brief, &Lengths::default()), "over before anybody could judge");
        for kind in NETWORK {
            for node in NODES {
                let found = plans.iter().map(|plan| plan.faults[0]).any(|planned| {
                    let fault = planned.fault;
                    (fault.kind, fault.node, fault.link) == (kind, node, Some(Link::Client))
                        && planned.until - planned.from > bound(&fault, &Lengths::default())
                });
                assert!(found, "{kind} of {node}");
            }
        }
    }
}
