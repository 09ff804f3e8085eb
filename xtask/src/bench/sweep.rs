//! `cargo xtask bench sweep`: how long it takes until all connections to a service address are ended.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hb_user::sockets::{Left, Sweeper, discard_unread};
use lab::{
    Lab, Options,
    addresses::{Link, Machine, VIP4, VIP6},
    clock,
    crowd::Crowd,
};
use serde::Serialize;

use super::{
    facts,
    figures::{Figures, write_json},
};
use crate::prepare;

/// Ends many connections to service addresses of both families, as a node does that has left a group.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Connections, half of them to each address; may be repeated.
    #[arg(long, default_values_t = [2_000, 20_000, 200_000], value_parser = clap::value_parser!(u32).range(2..=400_000))]
    connections: Vec<u32>,
    /// How often each is done.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether it works, within seconds.
    #[arg(long)]
    smoke: bool,
}

/// As long as a daemon does it at one go.
const AT_ONE_GO: Duration = Duration::from_millis(200);

/// What was measured with so many connections.
#[derive(Debug, Serialize)]
struct Row {
    connections: u32,
    /// From the first to the last, in milliseconds.
    whole_ms: Figures,
    /// For one of them, in microseconds.
    each_us: Figures,
    /// At one go, in milliseconds.
    go_ms: Figures,
    /// Reading away what waits unread, in milliseconds.
    unread_ms: Figures,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    sweep: Vec<Row>,
}

impl Sweep {
    /// Tells whether its figures are not meant to be read.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// Measures, shows, and writes the file if one is asked for.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let (connections, rounds) =
            if self.smoke { (vec![200], 2) } else { (self.connections.clone(), self.rounds) };
        let lab = Lab::up(Options::new()?)?;
        lab.add_vip(Machine::A)?;
        let rows = connections.into_iter().map(|count| measure(&lab, count, rounds));
        let report = Report { machine: facts::machine(), sweep: rows.collect::<Result<_>>()? };
        println!("{}", report.text());
        match &self.json {
            Some(path) => write_json(path, &report),
            None => Ok(()),
        }
    }
}

fn measure(lab: &Lab, count: u32, rounds: u32) -> Result<Row> {
    let server = lab.netns(Machine::A);
    let client = lab.netns(Machine::Client);
    let vips = [IpAddr::from(VIP4), IpAddr::from(VIP6)];
    let own = [IpAddr::from(Machine::Client.v4(Link::Client)), Machine::Client.v6().into()];
    let mut sweeper = server.enter(|| Sweeper::open(&vips))?.context("no sweeper")?;
    let (mut whole, mut each, mut gos, mut unread) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let crowds =
            own.into_iter().zip(vips).zip([20_000, 20_100]).map(|((own, vip), port)| {
                Crowd::gather(server, client, (own, vip), port, count / 2)
            });
        let crowds: Vec<Crowd> = crowds.collect::<Result<_>>()?;
        let began = clock::now();
        let mut ended = 0;
        loop {
            let go = clock::now();
            let swept = sweeper.destroy(AT_ONE_GO);
            gos.push(clock::now().since(go).as_secs_f64() * 1e3);
            ended += swept.tcp;
            match swept.left {
                None => break,
                Some(Left::Late) => {}
                Some(left) => return Err(left.into()),
            }
        }
        let took = clock::now().since(began).as_secs_f64();
        ensure!(ended == count / 2 * 2, "{ended} of {count} connections were ended");
        whole.push(took * 1e3);
        each.push(took * 1e6 / f64::from(count));
        let began = clock::now();
        server.enter(|| discard_unread(&vips))?.context("unread data")?;
        unread.push(clock::now().since(began).as_secs_f64() * 1e3);
        drop(crowds);
    }
    let figures = |values: &[f64]| Figures::of(values).context("no sample");
    Ok(Row {
        connections: count,
        whole_ms: figures(&whole)?,
        each_us: figures(&each)?,
        go_ms: figures(&gos)?,
        unread_ms: figures(&unread)?,
    })
}

impl Report {
    fn text(&self) -> String {
        const WIDTH: usize = 34;
        let mut text = facts::lines(&self.machine);
        for Row { connections, whole_ms, each_us, go_ms, unread_ms } in &self.sweep {
            text.push('\n');
            text.push_str(&Figures::head(&format!("{connections} connections"), WIDTH));
            text.push('\n');
            for (name, figures) in [
                ("all ended, ms", whole_ms),
                ("each, us", each_us),
                ("at one go, ms", go_ms),
                ("unread data read away, ms", unread_ms),
            ] {
                text.push_str(&figures.row(name, WIDTH));
                text.push('\n');
            }
        }
        text
    }
}
