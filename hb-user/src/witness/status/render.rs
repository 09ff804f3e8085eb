//! The report as an operator reads it.

use std::collections::BTreeMap;

use super::{ClusterStatus, NodeStatus, WitnessReport};
use crate::{
    id::NodeId,
    status::{Page, ago, row, span},
};

/// Writes `report` as plain ASCII. What needs attention is in capitals.
#[must_use]
pub fn render(report: &WitnessReport) -> String {
    let mut page = Page::default();
    if report.clusters.is_empty() {
        page.line("this machine votes in no cluster");
    }
    for cluster in &report.clusters {
        self::cluster(&mut page, cluster);
        page.line("");
    }
    for interface in &report.interfaces {
        let name = match &interface.name {
            Some(name) => name.clone(),
            None => format!("index {} (GONE)", interface.index),
        };
        page.line(&format!("interface {name}: {} mode", interface.mode));
    }
    page.line(&format!("version {}", report.version));
    page.text
}

fn cluster(page: &mut Page, cluster: &ClusterStatus) {
    let id = cluster.id;
    let who = match &cluster.name {
        Some(name) => format!("cluster {name} (id {id})"),
        None => format!("cluster of id {id}"),
    };
    let voter = NodeId(cluster.witness_id);
    match (cluster.learner, cluster.blocked_us) {
        (true, _) => page.line(&format!("{who}: DOES NOT VOTE, it is a learner")),
        (false, Some(us)) => page.line(&format!(
            "{who}: DOES NOT VOTE for another {}: promises from before its start may bind",
            span(us)
        )),
        (false, None) => page.line(&format!("{who}: votes as {voter}")),
    }
    page.line(&format!(
        "  start {}; generation {} was heard, up to {} may be promised",
        cluster.incarnation, cluster.generation_heard, cluster.generation
    ));

    page.line("");
    let mut rows = vec![row(["node", "heard", "daemon", "config", "unfresh"])];
    for node in &cluster.nodes {
        let said = |value: Option<bool>, yes, no| match value {
            Some(true) => yes,
            Some(false) => no,
            None => "-",
        };
        rows.push(row([
            &name(node),
            &ago(node.heard_us_ago),
            said(node.controller_alive, "alive", "DEAD"),
            said(node.config_matches, "same", "DIFFERS"),
            &node.unfresh.to_string(),
        ]));
    }
    page.table(&rows, 4);

    let mut rows =
        vec![row(["link", "via", "heard", "answers heard", "key", "received", "answered"])];
    for node in &cluster.nodes {
        for link in &node.links {
            let number = link.link.to_string();
            let key = link.key.map_or_else(|| "-".to_owned(), |key| key.to_string());
            rows.push(row([
                &format!("{}/{}", name(node), link.name.as_ref().unwrap_or(&number)),
                &link.transport,
                &ago(link.heard_us_ago),
                if link.answers_heard { "yes" } else { "NO" },
                &key,
                &link.received.to_string(),
                &link.answered.to_string(),
            ]));
        }
    }
    page.line("");
    page.table(&rows, 4);

    let mut rows = vec![row(["group", "promised to", "for", "epoch", "released"])];
    for group in &cluster.groups {
        let to = group.promised_to.map(|id| {
            let known = cluster.nodes.iter().find(|node| node.id == id);
            known.map_or_else(|| NodeId(id).to_string(), name)
        });
        let number = group.group.to_string();
        rows.push(row([
            group.name.as_ref().unwrap_or(&number),
            to.as_deref().unwrap_or("nobody"),
            &group.for_us.map_or_else(|| "-".to_owned(), span),
            &group.epoch.to_string(),
            if group.released { "yes" } else { "no" },
        ]));
    }
    page.line("");
    page.table(&rows, 3);

    for node in &cluster.nodes {
        if !node.refused.is_empty() {
            page.line(&format!("  REFUSED of {}: {}", name(node), counts(&node.refused)));
        }
    }
    if !cluster.refused.is_empty() {
        page.line(&format!("  REFUSED, naming no voter's link: {}", counts(&cluster.refused)));
    }
    for warning in &cluster.warnings {
        page.line(&format!("WARNING: {warning}"));
    }
}

fn name(node: &NodeStatus) -> String {
    node.name.clone().unwrap_or_else(|| NodeId(node.id).to_string())
}

fn counts(refused: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> =
        refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    counts.join(", ")
}
