//! x
use hb_model::{rules::Production, search::search, system::Setup};
fn env(n: &str, d: u64) -> u64 { std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d) }
#[test]
fn explore() {
    let all = [[2,2,2,2,2],[2,3,3,3,3],[3,2,2,2,2],[3,3,2,2,2],[2,3,2,2,2],[2,2,3,3,3],[3,2,3,3,3]];
    let setup = Setup { nodes: env("NODES",2) as u8, witnesses: env("WITNESS",1) as u8, lease: env("LEASE",4), next_lease: None, longest: env("LONGEST",4),
        margin: env("MARGIN",2), drain: env("DRAIN",4), seek: env("SEEK",2), rho: 512, rates: all[..env("RATES",1) as usize].to_vec(),
        seeks: env("SEEKS",2) as u8, give_ups: env("GIVEUPS",0) as u8, restarts: env("RESTARTS",0) as u8, restarting: &[1,2,3],
        releases: env("RELEASES",0) as u8, cut: &[], held: false, recovery: env("RECOVERY",0)==1 };
    let depth = env("DEPTH",0) as usize;
    let outcome = search(&setup, Production, (depth>0).then_some(depth));
    println!("{outcome} failback {}", outcome.fail_back);
    if let Some(v)=outcome.violation { println!("{v}"); panic!() }
}
