//! Works only while this node holds a group, and tells the storage under which epoch.
//!
//! `cargo run -p hb-lease --example lease -- CLUSTER NODE [GROUP]`; the group is its place in the
//! configuration, from 0. Prints each change for ten seconds.

use std::{env, error::Error, thread, time::Duration};

use hb_lease::{LeaseView, now_ns};

const LOOKS: u32 = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (cluster, node, group) = match &arguments[..] {
        [cluster, node] => (cluster, node, 0),
        [cluster, node, group] => (cluster, node, group.parse()?),
        _ => return Err("usage: lease CLUSTER NODE [GROUP]".into()),
    };
    let pin = LeaseView::path(cluster, node);
    let mut view = LeaseView::open(&pin)?;
    let mut served = None;
    for _ in 0..LOOKS {
        if !view.is_current() {
            view = LeaseView::open(&pin)?;
        }
        let held = view.read(group)?.held_at(now_ns()?);
        if held != served {
            match held {
                Some(epoch) => println!("this node holds the group in epoch {epoch}"),
                None => println!("this node does not hold the group"),
            }
            served = held;
        }
        if let Some(epoch) = held {
            store("a line", epoch);
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Stands for a write to storage that keeps the highest epoch it has seen and refuses a lower one,
/// in the same transaction: that is what protects the data, whenever this process is stopped.
fn store(_line: &str, _epoch: u64) {}
