//! The report as an operator reads it: first who serves, then whom we hear, then the rest.

use std::fmt::Write as _;

use super::{
    EngineKind, GroupStatus, KeysReport, PeerLife, PeerStatus, Quantiles, StatusReport, gate, lease,
};

/// No line is longer, in columns.
pub const WIDTH: usize = 80;

/// Writes `report` as plain ASCII of at most [`WIDTH`] columns.
///
/// What needs attention is in capitals: a group that nobody serves, a dead peer, a link that is
/// down, an address that is missing on its holder, a configuration that differs.
#[must_use]
pub fn render(report: &StatusReport) -> String {
    let mut page = Page::default();
    for group in &report.groups {
        verdict(&mut page, report, group);
        lease::lines(&mut page, group);
    }
    if report.groups.is_empty() {
        page.line("no group is configured");
    }
    for group in &report.groups {
        contents(&mut page, report, group);
    }
    if let Some(gate) = &report.gate {
        page.line("");
        gate::mode(&mut page, gate);
        gate::counters(&mut page, gate);
    }
    page.line("");
    peers(&mut page, &report.peers);
    links(&mut page, &report.peers);
    machinery(&mut page, report);
    if !report.refused.is_empty() {
        let reasons: Vec<String> =
            report.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        page.line(&format!("frames REFUSED that name no peer's link: {}", reasons.join(", ")));
    }
    for warning in &report.warnings {
        page.line(&format!("WARNING: {warning}"));
    }
    page.text
}

fn verdict(page: &mut Page, report: &StatusReport, group: &GroupStatus) {
    let GroupStatus { group: name, epoch, .. } = group;
    let since = span(group.since_us_ago);
    let (state, health) = (group.state.as_str(), group.health.as_str());
    let reason = group.reason.as_deref();
    match &group.holder {
        Some(holder) if *holder == report.node => {
            page.line(&format!(
                "{name}: served here by {holder} for {since}, epoch {epoch}, {health}"
            ));
            if let Some(reason) = reason {
                page.line(&format!("    {reason}"));
            }
        }
        Some(holder) => {
            page.line(&format!(
                "{name}: served by {holder} for {since}, epoch {epoch}; here {state}, {health}"
            ));
            if let Some(reason) = reason {
                page.line(&format!("    not here: {reason}"));
            }
        }
        None => page.line(&format!(
            "{name}: SERVED BY NOBODY for {since}: {}; here {state}, {health}, epoch {epoch}",
            reason.unwrap_or("no reason is known")
        )),
    }
}

fn contents(page: &mut Page, report: &StatusReport, group: &GroupStatus) {
    let here = group.holder.as_ref() == Some(&report.node);
    let addresses = group.addresses.iter().map(|address| {
        let state = match (address.present, here) {
            (true, true) => "present",
            (false, true) => "MISSING",
            (true, false) if address.warm => "present, closed",
            (true, false) => "STILL PRESENT",
            (false, false) => "absent",
        };
        row(["  address", &address.address, &format!("on {}", address.interface), state])
    });
    let resources = group.resources.iter().map(|resource| {
        let bad = resource.state.starts_with("failed");
        let state = if bad {
            resource.state.replacen("failed", "FAILED", 1)
        } else {
            resource.state.clone()
        };
        row(["  resource", &resource.name, &resource.kind, &state])
    });
    let rows: Vec<_> = addresses.chain(resources).collect();
    if !rows.is_empty() {
        page.line("");
        page.line(&format!("{} here:", group.group));
        page.table(&rows, 4);
    }
    for resource in &group.resources {
        let by = match &resource.watched[..] {
            [] => "nobody looks whether it runs".to_owned(),
            all => format!("watched by {}", all.join("; ")),
        };
        page.line(&format!("  {}: {by}", resource.name));
    }
}

fn peers(page: &mut Page, peers: &[PeerStatus]) {
    if peers.is_empty() {
        page.line("no peer is configured");
        return;
    }
    let mut rows = vec![row(["peer", "life", "for", "heard", "controller", "config"])];
    let mut counts = vec![row(["peer", "misses", "ever", "doubts", "deaths", "clock us"])];
    for peer in peers {
        let controller = match &peer.controller {
            Some(controller) if controller.alive => span(controller.age_us),
            Some(controller) => format!("DEAD {}", span(controller.age_us)),
            None if peer.witness => "witness".to_owned(),
            None => "-".to_owned(),
        };
        let life = peer.life.as_str();
        rows.push(vec![
            peer.node.clone(),
            if peer.life == PeerLife::Dead { life.to_uppercase() } else { life.to_owned() },
            span(peer.since_us_ago),
            ago(peer.last_arrival_us_ago),
            controller,
            match peer.config_matches {
                Some(true) => "same",
                Some(false) => "DIFFERS",
                None => "-",
            }
            .to_owned(),
        ]);
        counts.push(vec![
            peer.node.clone(),
            peer.misses.consecutive.to_string(),
            peer.misses.total.to_string(),
            peer.doubts_total.to_string(),
            peer.deaths_total.to_string(),
            peer.offset_us.map_or_else(|| "-".to_owned(), |us| format!("{us:+.1}")),
        ]);
    }
    page.table(&rows, 6);
    for PeerStatus { node, life, cause, refuses_us, config_differs, .. } in peers {
        if let Some(cause) = cause {
            page.line(&format!("  {node} is {}: {cause}", life.as_str()));
        }
        if !config_differs.is_empty() {
            let sections: Vec<_> = config_differs.iter().map(|name| format!("[{name}]")).collect();
            page.line(&format!(
                "  the file of {node} differs in {}: with a copy of it here, `hb check --against COPY` names \
                 the keys",
                sections.join(", ")
            ));
        }
        if let Some(reason) = refuses_us {
            page.line(&format!("  {node} REFUSES our frames: {reason}"));
        }
    }
    page.line("");
    page.table(&counts, 1);
}

fn links(page: &mut Page, peers: &[PeerStatus]) {
    let links = || peers.iter().flat_map(|peer| peer.links.iter().map(move |link| (peer, link)));
    if links().next().is_none() {
        return;
    }
    let mut paths = vec![row(["link", "via", "on", "attached", "state", "heard"])];
    let heading = ["link", "sent", "errors", "received", "answered", "unfresh", "refused"];
    let mut counts = vec![row(heading)];
    let heading = ["link", "rtt us p50", "p99", "max", "gap us p50", "p99", "max"];
    let mut times = vec![row(heading)];
    let mut notes = Vec::new();
    for (peer, link) in links() {
        let name = format!("{}/{}", peer.node, link.link);
        let state = if link.up { "up" } else { "DOWN" };
        let attached = link.attach_mode.as_str();
        let heard = ago(link.last_arrival_us_ago);
        paths.push(row([&name, &link.transport, &link.interface, attached, state, &heard]));

        let refused = link.refused.values().fold(0u64, |sum, &count| sum.saturating_add(count));
        let numbers =
            [link.sent, link.send_errors, link.received, link.answered, link.unfresh, refused];
        counts.push(with_name(&name, numbers.iter().map(u64::to_string)));
        times.push(with_name(
            &name,
            quantiles(link.rtt_us).into_iter().chain(quantiles(link.gap_us)),
        ));

        if let Some(reason) = &link.attach_reason {
            notes.push(format!("  {name} is attached in {attached} mode, slower: {reason}"));
        }
        if refused > 0 {
            let mut note = format!("  {name} refused:");
            for (index, (reason, count)) in link.refused.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                // Writing to a string cannot fail.
                let _ = write!(note, "{comma} {reason} {count}");
            }
            notes.push(note);
        }
        // A witness asks nothing, so it gets no answers.
        if link.up && !link.answers_heard_by_peer && !peer.witness {
            notes.push(format!("  {name}: we hear {0}, {0} does NOT hear our answers", peer.node));
        }
    }
    for (rows, left) in [(&paths, 6), (&counts, 1), (&times, 1)] {
        page.line("");
        page.table(rows, left);
    }
    for note in notes {
        page.line(&note);
    }
}

fn machinery(page: &mut Page, report: &StatusReport) {
    let StatusReport { node, node_id, cluster, cluster_id, policy, version, .. } = report;
    page.line("");
    page.line(&format!(
        "node {node} (id {node_id}) of {cluster} (id {cluster_id}), policy {policy}"
    ));
    page.line(&format!(
        "daemon: version {version}, start {}, up {}, config {}",
        report.incarnation,
        span(report.uptime_s.saturating_mul(1_000_000)),
        report.config_hash,
    ));
    let KeysReport { accepted, sends_with } = &report.keys;
    if !accepted.is_empty() {
        let accepted: Vec<_> = accepted.iter().map(u8::to_string).collect();
        page.line(&format!("keys: takes {}, sends with {sends_with}", accepted.join(" and ")));
    }
    let engine = match report.engine.kind {
        EngineKind::KernelTimer => "kernel timers",
        EngineKind::User => "userspace thread",
    };
    page.line(&format!("engine: {engine} ({})", report.engine.reason));
    page.line(&format!("scheduling: {}", report.scheduling.policy));
    for refused in &report.scheduling.refused {
        page.line(&format!("  refused: {refused}"));
    }
    let controller = &report.controller;
    page.line(&format!(
        "controller: {} old, one round per {} ms",
        span(controller.age_us),
        controller.tick_ms
    ));
}

pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn with_name(name: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells).collect()
}

fn quantiles(quantiles: Option<Quantiles>) -> [String; 3] {
    let number = |us: Option<f64>| match us {
        // More digits than anybody measures only hide the number.
        Some(us) if us < 1000.0 => format!("{us:.1}"),
        Some(us) => format!("{us:.0}"),
        None => "-".to_owned(),
    };
    match quantiles {
        Some(Quantiles { p50, p99, max }) => [number(Some(p50)), number(Some(p99)), number(max)],
        None => [number(None), number(None), number(None)],
    }
}

pub(crate) fn ago(us: Option<u64>) -> String {
    us.map_or_else(|| "never".to_owned(), |us| format!("{} ago", span(us)))
}

/// Writes a span of time with the two or three digits that matter.
pub(crate) fn span(us: u64) -> String {
    let s = us / 1_000_000;
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us / 100 % 10),
        1_000_000..60_000_000 => format!("{s}.{} s", us / 100_000 % 10),
        60_000_000..3_600_000_000 => format!("{} min {} s", s / 60, s % 60),
        3_600_000_000..86_400_000_000 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

/// Text under construction, in which every line is ASCII and fits.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) text: String,
}

impl Page {
    /// Adds a line; one too long is broken at a space if it has one, and goes on further right.
    pub(crate) fn line(&mut self, line: &str) {
        let clean: String = line
            .trim_end()
            .chars()
            .map(|letter| if matches!(letter, ' '..='~') { letter } else { '?' })
            .collect();
        let indent = " ".repeat((clean.len() - clean.trim_start().len()).min(WIDTH / 2) + 4);
        let mut rest = clean.as_str();
        let mut lead = "";
        while lead.len() + rest.len() > WIDTH {
            let room = WIDTH - lead.len();
            let from = rest.len() - rest.trim_start().len();
            let at = rest[from..=room].rfind(' ').map_or(room, |at| at + from);
            self.put(lead, rest[..at].trim_end());
            rest = rest[at..].trim_start();
            lead = &indent;
        }
        self.put(lead, rest);
    }

    fn put(&mut self, lead: &str, line: &str) {
        self.text.push_str(lead);
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds lines of aligned cells: the first `left` columns to the left, numbers to the right.
    pub(crate) fn table(&mut self, rows: &[Vec<String>], left: usize) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if width == 0 {
                    continue;
                }
                if column > 0 {
                    line.push_str("  ");
                }
                // Writing to a string cannot fail.
                let _ = if column < left {
                    write!(line, "{cell:<width$}")
                } else {
                    write!(line, "{cell:>width$}")
                };
            }
            self.line(&line);
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
pub(super) mod tests;
