//! Holds the dependencies to `deny.toml`: licences, sources and versions, as `cargo deny check bans licenses
//! sources` does.
//!
//! cargo-deny itself takes minutes to compile and comes in no other way with what a fresh machine has. So
//! these three are checked here, from what cargo knows. Advisories are not: their database is a git
//! repository that a machine may not reach.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run;

/// The source of a crate from the registry that is not unknown.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the dependencies.
///
/// # Errors
///
/// All that is denied; a setting of `deny.toml` that nothing here holds.
pub(crate) fn run() -> Result<()> {
    let path = run::workspace().join("deny.toml");
    let text = std::fs::read_to_string(&path).context("cannot read deny.toml")?;
    let rules = Rules::of(&text)?;
    let mut command = run::cargo();
    command.args(["metadata", "--format-version=1", "--locked"]);
    command.args(rules.graph.targets.iter().flat_map(|target| ["--filter-platform", target]));
    let metadata: Metadata = serde_json::from_str(&run::output(&mut command)?)
        .context("`cargo metadata` did not write what this program expects of it")?;
    let found = judge(&rules, &metadata.packages);
    for warning in &found.warnings {
        println!("warning: {warning}");
    }
    if !found.denied.is_empty() {
        bail!("{}; see deny.toml", found.denied.join("; "));
    }
    println!("{} packages: licences, sources and versions are allowed", metadata.packages.len());
    Ok(())
}

/// `deny.toml`, as far as it is held; a key that is not known is an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    graph: Graph,
    licenses: Licences,
    /// Held by cargo-deny alone.
    #[serde(rename = "advisories")]
    _advisories: toml::Table,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Licences {
    allow: BTreeSet<String>,
    private: Private,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Private {
    ignore: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Level,
    wildcards: Level,
    allow_wildcard_paths: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Allow,
    Warn,
    Deny,
}

impl Rules {
    fn of(text: &str) -> Result<Self> {
        toml::from_str(text).context("deny.toml holds what `cargo xtask ci` does not check")
    }
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// A licence expression of SPDX.
    license: Option<String>,
    /// `None` for one of this workspace.
    source: Option<String>,
    /// Registries it may be published to; none for a private one.
    publish: Option<Vec<String>>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

#[derive(Debug, Default)]
struct Found {
    denied: Vec<String>,
    warnings: Vec<String>,
}

impl Found {
    fn add(&mut self, level: Level, what: String) {
        match level {
            Level::Allow => {}
            Level::Warn => self.warnings.push(what),
            Level::Deny => self.denied.push(what),
        }
    }
}

fn judge(rules: &Rules, packages: &[Package]) -> Found {
    let mut found = Found::default();
    let mut versions = BTreeMap::<_, BTreeSet<_>>::new();
    for package in packages {
        let Package { name, version, .. } = package;
        versions.entry(name.as_str()).or_default().insert(version.as_str());
        let is_private = package.publish.as_ref().is_some_and(Vec::is_empty);
        if !(is_private && rules.licenses.private.ignore) {
            let licence = package.license.as_deref().unwrap_or_default();
            if !is_allowed(licence, &rules.licenses.allow) {
                let what = format!("the licence of {name} {version}, {licence:?}, is not allowed");
                found.add(Level::Deny, what);
            }
        }
        match package.source.as_deref() {
            None | Some(CRATES_IO) => {}
            Some(source) => {
                let Sources { unknown_registry, unknown_git } = rules.sources;
                let level = if source.starts_with("git+") { unknown_git } else { unknown_registry };
                found.add(level, format!("{name} {version} comes from {source}"));
            }
        }
        // What others ask of theirs is theirs.
        let ours = package.dependencies.iter().filter(|_| package.source.is_none());
        for dependency in ours.filter(|dependency| dependency.req == "*") {
            if !(dependency.path.is_some() && rules.bans.allow_wildcard_paths) {
                let what = format!("{name} takes any version of {}", dependency.name);
                found.add(rules.bans.wildcards, what);
            }
        }
    }
    for (name, versions) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let versions: Vec<_> = versions.into_iter().collect();
        let what = format!("{name} is there in several versions: {}", versions.join(", "));
        found.add(rules.bans.multiple_versions, what);
    }
    found
}

/// Tells whether one of the choices that a licence expression leaves is allowed (SPDX 2.3, annex D; `/` for
/// `OR` as cargo had it once). What is no expression is not allowed.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any(&mut words, allowed).is_some_and(|is| is && words.next().is_none())
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// Reads `a OR b ..`.
fn any(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is = all(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        is |= all(words, allowed)?;
    }
    Some(is)
}

/// Reads `a AND b ..`, which binds closer.
fn all(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        is &= one(words, allowed)?;
    }
    Some(is)
}

/// Reads `(..)`, a licence, or a licence `WITH` an exception.
fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let is = any(words, allowed)?;
            (words.next()? == ")").then_some(is)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence if words.next_if_eq(&"WITH").is_some() => {
            Some(allowed.contains(&format!("{licence} WITH {}", words.next()?)))
        }
        licence => Some(allowed.contains(licence)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        graph = { targets = ["x86_64-unknown-linux-gnu"] }
        licenses = { allow = ["MIT", "Apache-2.0 WITH LLVM-exception"], private = { ignore = true } }
        advisories = { ignore = [] }
        bans = { multiple-versions = "warn", wildcards = "deny", allow-wildcard-paths = true }
        sources = { unknown-registry = "deny", unknown-git = "deny" }
    "#;

    fn judged(packages: &str) -> Found {
        judge(&Rules::of(RULES).unwrap(), &serde_json::from_str::<Vec<_>>(packages).unwrap())
    }

    #[test]
    fn the_dependencies_of_this_workspace_are_allowed() {
        run().unwrap();
    }

    #[test]
    fn one_choice_of_an_expression_has_to_be_allowed() {
        let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];
        let allowed = allowed.into_iter().map(str::to_owned).collect();
        for good in [
            "MIT",
            "GPL-2.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Zlib",
            "GPL-3.0 AND Zlib OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-3.0 OR AGPL-3.0)",
            "Apache-2.0",
            "MIT WITH Zlib",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Zlib",
            "MIT AND WITH",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn what_is_denied_is_named() {
        let found = judged(&format!(
            r#"[
            {{"name": "ours", "version": "1.0.0", "publish": [], "dependencies": [
                {{"name": "near", "req": "*", "path": "/near"}}, {{"name": "far", "req": "*"}}]}},
            {{"name": "far", "version": "2.0.0", "license": "MIT", "source": "{CRATES_IO}",
                "dependencies": [{{"name": "theirs", "req": "*"}}]}},
            {{"name": "far", "version": "3.0.0", "license": "GPL-3.0", "source": "{CRATES_IO}",
                "dependencies": []}},
            {{"name": "bare", "version": "4.0.0", "source": "git+https://example.org/bare#1",
                "dependencies": []}},
            {{"name": "odd", "version": "5.0.0", "license": "MIT", "source": "registry+https://example.org",
                "dependencies": []}}
        ]"#
        ));
        let denied = [
            "ours takes any version of far",
            "the licence of far 3.0.0, \"GPL-3.0\", is not allowed",
            "the licence of bare 4.0.0, \"\", is not allowed",
            "bare 4.0.0 comes from git+https://example.org/bare#1",
            "odd 5.0.0 comes from registry+https://example.org",
        ];
        assert_eq!(found.denied, denied);
        assert_eq!(found.warnings, ["far is there in several versions: 2.0.0, 3.0.0"]);
    }

    #[test]
    fn a_rule_that_nothing_holds_is_an_error() {
        let more = RULES.replace("wildcards = \"deny\",", "wildcards = \"deny\", deny = [],");
        assert_ne!(more, RULES);
        let error = format!("{:#}", Rules::of(&more).unwrap_err());
        assert!(error.contains("unknown field `deny`"), "{error}");
    }
}
