//! Machines that go by different files, and change them one after the other: every old file of up to
//! three groups and three addresses beside every new one, in every order of the machines and every kind
//! of restart.
//!
//! Real are the records with their transitions, where a start finds them ([`Begin`]), how a word finds its
//! record, and the gate's look at an address. Frames arrive at once, so what is explored is the order of
//! restarts, and what is found half done after a crash between any two steps of one.
//!
//! No address may ever be open at two nodes. A group that both files have keeps its service, without a
//! pause where its holder is restarted in place. In the end every group of the new file is served.

mod cluster;
mod file;

use hb_ebpf::lease::Policy;

use cluster::{Bent, Cluster, Kind, NODES, Wrong};
use file::{File, all, canonical};

/// Every order of so many machines.
fn orders(machines: usize) -> Vec<Vec<usize>> {
    if machines == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(machines - 1);
    let insert = |order: &Vec<usize>| {
        let order = order.clone();
        (0..=order.len()).map(move |at| {
            let mut order = order.clone();
            order.insert(at, machines - 1);
            order
        })
    };
    shorter.iter().flat_map(insert).collect()
}

/// Changes the file of every machine in that order; a bit of `kinds` says how each node is restarted.
fn change(
    policy: Policy,
    bent: Bent,
    [old, new]: [&File; 2],
    order: &[usize],
    kinds: usize,
) -> Result<(), Wrong> {
    let mut cluster = Cluster::serving(policy, bent, old)?;
    for &machine in order {
        let kind = if kinds & 1 << machine == 0 { Kind::Orderly } else { Kind::InPlace };
        cluster.restart(machine, new, kind)?;
        cluster.settle()?;
        // With a rule left out nobody asks for service: two gates are looked for.
        if bent == Bent::Nothing {
            cluster.unchanged_are_served(old, new)?;
        }
    }
    if bent == Bent::Nothing { cluster.all_are_served(new) } else { Ok(()) }
}

/// Returns how many changes were tried, or the first that went wrong.
fn explore(policy: Policy, bent: Bent) -> Result<usize, String> {
    let machines = NODES + usize::from(policy == Policy::Witness);
    let mut tried = 0;
    for old in canonical() {
        for new in all() {
            for order in orders(machines) {
                for kinds in 0..1 << NODES {
                    tried += 1;
                    change(policy, bent, [&old, &new], &order, kinds).map_err(|wrong| {
                        format!("{wrong}, from {old:?} to {new:?}, {order:?}, {kinds:b} in place")
                    })?;
                }
            }
        }
    }
    Ok(tried)
}

#[test]
fn no_change_of_the_file_opens_two_gates_with_a_witness() {
    let tried = explore(Policy::Witness, Bent::Nothing).unwrap();
    assert_eq!(tried, canonical().len() * all().len() * 6 * 4);
}

#[test]
fn no_change_of_the_file_makes_two_servers_of_nodes_that_hear_each_other() {
    let tried = explore(Policy::Available, Bent::Nothing).unwrap();
    assert_eq!(tried, canonical().len() * all().len() * 2 * 4);
}

/// A start is killed after each of its steps, and the next one has the same file, or the old one again.
#[test]
fn no_start_that_is_killed_half_way_opens_two_gates() {
    for policy in [Policy::Witness, Policy::Available] {
        for old in canonical() {
            for new in all() {
                for (machine, then) in [(0, &new), (0, &old), (1, &new), (1, &old)] {
                    for steps in 0.. {
                        let mut cluster = Cluster::serving(policy, Bent::Nothing, &old).unwrap();
                        let run = cluster.killed_after(machine, &new, steps).and_then(|killed| {
                            // The other machines go on with either file meanwhile.
                            cluster.restart(1 - machine, &new, Kind::Orderly)?;
                            cluster.restart(machine, then, Kind::InPlace)?;
                            cluster.settle()?;
                            cluster.unchanged_are_served(&old, &new).map(|()| killed)
                        });
                        let say = || format!("{policy:?} {old:?} {new:?} {machine} {steps}");
                        let killed = run.unwrap_or_else(|wrong| panic!("{wrong}: {}", say()));
                        if !killed {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// The rules are what keeps it so.
#[test]
fn each_rule_left_out_is_found() {
    for (policy, bent) in [
        (Policy::Witness, Bent::GroupsAreIndexes),
        (Policy::Available, Bent::GroupsAreIndexes),
        (Policy::Witness, Bent::NothingIsWaitedFor),
        (Policy::Available, Bent::TakesWhatAPeerLacks),
    ] {
        let found = explore(policy, bent).expect_err("nothing was found");
        assert!(found.contains("two gates"), "{policy:?} {bent:?}: {found}");
    }
    let mut found = None;
    for new in all() {
        for old in canonical() {
            for steps in 0..16 {
                let bent = Bent::AddressesFirst;
                let mut cluster = Cluster::serving(Policy::Available, bent, &old).unwrap();
                found = found.or(cluster.killed_after(0, &new, steps).err());
            }
        }
    }
    assert!(found.is_some_and(|wrong| wrong.to_string().contains("another group")));
}
