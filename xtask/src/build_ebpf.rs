//! Compiles the program binaries of `hb-ebpf` into the objects kept in the repository.
//!
//! The same tools give the same bytes wherever the checkout and the cargo home lie: every path that
//! would end up in debug information, and so in BTF line information, is mapped to a fixed name.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    kernel_object::{self, OBJECTS, Record},
    run, sources,
    toolchain::{self, TARGET, Toolchain},
};

/// The compiler flags, apart from those that map paths.
pub(crate) const FLAGS: [&str; 5] = [
    // The machine whose registers and kernel types the bindings of aya-ebpf describe.
    "--cfg=bpf_target_arch=\"x86_64\"",
    // BTF is made from debug information.
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    // Otherwise every store of zeros and every copy that LLVM finds is a call of `memset` or `memcpy`,
    // under a lock as well, where kernels before 6.9 take no call.
    "-Clink-arg=--disable-expand-memcpy-in-order",
    // By name, found on a path that begins with its directory: flags are part of what cargo names
    // a crate by, and so of the bytes.
    "-Clinker=bpf-linker",
];

/// The crate that uses unstable features of the compiler, which only BPF has.
const UNSTABLE: &str = "aya_ebpf";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing: rebuild elsewhere and fail when the kept objects are not what comes out
    #[arg(long)]
    check: bool,
}

/// What a check found.
pub(crate) enum Outcome {
    /// The kept objects are what these sources and the recorded tools give.
    Same,
    /// The tools here are not the recorded ones, so bytes say nothing; the rebuilt objects are in
    /// this directory, to be tested beside the kept ones.
    OtherTools(PathBuf),
}

/// Runs the verb.
///
/// # Errors
///
/// When a tool is missing, a build fails, or a check finds a difference.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.check {
        return rebuild();
    }
    match check()? {
        Outcome::Same => println!("the kept kernel objects are what their sources give"),
        Outcome::OtherTools(directory) => {
            println!("compare their behaviour instead:");
            for (variable, path) in kernel_object::variables(&directory) {
                println!("  export {variable}={}", path.display());
            }
            println!("  cargo xtask test");
        }
    }
    Ok(())
}

fn rebuild() -> Result<()> {
    let toolchain = toolchain::find()?;
    let directory = build(&toolchain, "bpf-objects")?;
    let root = run::workspace();
    let sources = sources::fingerprint(root)?;
    for object in &OBJECTS {
        let bytes = read(&kernel_object::rebuilt(&directory, object))?;
        let record = Record {
            sha256: kernel_object::hash(&bytes),
            sources: sources.clone(),
            versions: toolchain.versions.clone(),
        };
        let path = root.join(object.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        write(&path, &bytes)?;
        write(&root.join(object.record_path()), record.text().as_bytes())?;
        println!("{}: {} bytes, SHA-256 {}", object.path, bytes.len(), record.sha256);
    }
    Ok(())
}

/// Rebuilds beside the kept objects and compares.
///
/// # Errors
///
/// When the kept objects are not those recorded, were built from other sources, or, with the
/// recorded tools, come out different; when a tool is missing or the build fails.
pub(crate) fn check() -> Result<Outcome> {
    kernel_object::check_fresh()?;
    let toolchain = toolchain::find()?;
    let directory = build(&toolchain, "bpf-check")?;
    let root = run::workspace();
    let mut other_tools = false;
    let mut differences = Vec::new();
    for object in &OBJECTS {
        let (_, record) = object.load(root)?;
        let rebuilt = kernel_object::hash(&read(&kernel_object::rebuilt(&directory, object))?);
        let changed = changed_tools(&record, &toolchain);
        if rebuilt == record.sha256 {
            println!("{}: the same bytes, SHA-256 {rebuilt}", object.path);
        } else if changed.is_empty() {
            differences.push(format!(
                "{} has SHA-256 {}, rebuilding it with the same tools gives {rebuilt}",
                object.path, record.sha256
            ));
        } else {
            other_tools = true;
            println!(
                "{}: SHA-256 {}, rebuilt {rebuilt} with other tools: {}",
                object.path,
                record.sha256,
                changed.join("; ")
            );
        }
    }
    if !differences.is_empty() {
        bail!("{}: run `cargo xtask build-ebpf`", differences.join("; "));
    }
    Ok(if other_tools { Outcome::OtherTools(directory) } else { Outcome::Same })
}

/// How the tools here differ from the recorded ones, one phrase a tool.
fn changed_tools(record: &Record, toolchain: &Toolchain) -> Vec<String> {
    let (kept, here) = (&record.versions, &toolchain.versions);
    let mut names: Vec<_> = kept.keys().chain(here.keys()).collect();
    names.sort();
    names.dedup();
    let shown = |version: Option<&String>| version.map_or("none", String::as_str).to_owned();
    names
        .into_iter()
        .filter(|name| kept.get(*name) != here.get(*name))
        .map(|name| format!("{name} was {}, is {}", shown(kept.get(name)), shown(here.get(name))))
        .collect()
}

/// Builds every object, stripped, into a directory of that name in `target`.
fn build(toolchain: &Toolchain, name: &str) -> Result<PathBuf> {
    let root = run::workspace();
    let target = root.join("target/bpf");
    // cargo does not see that the linker changed, so our own crate is always built anew.
    let mut clean = cargo(toolchain)?;
    clean.args(["clean", "--quiet", "--package", "hb-ebpf", "--release"]);
    run::run(clean.args(["--target", TARGET, "--locked"]).arg("--target-dir").arg(&target))?;
    let mut build = cargo(toolchain)?;
    build.args(["build", "--package", "hb-ebpf", "--bins", "--features", "program", "--release"]);
    build.args(["--target", TARGET, "--locked"]).arg("--target-dir").arg(&target);
    if toolchain.compiler.builds_core {
        build.arg("-Zbuild-std=core");
    }
    run::run(&mut build)?;

    let directory = root.join("target").join(name);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for object in &OBJECTS {
        let linked = target.join(TARGET).join("release").join(object.binary);
        let stripped = kernel_object::rebuilt(&directory, object);
        let mut objcopy = Command::new(&toolchain.objcopy);
        run::run(objcopy.arg("--strip-debug").arg(&linked).arg(&stripped))?;
        inspect(&read(&stripped)?, &[root, &cargo_home()?])
            .with_context(|| format!("{} cannot be kept", object.binary))?;
    }
    Ok(directory)
}

/// Checks that an object carries type information, and no path of this machine.
fn inspect(object: &[u8], private: &[&Path]) -> Result<()> {
    let holds = |wanted: &[u8]| object.windows(wanted.len()).any(|window| window == wanted);
    if !holds(b".BTF\0") {
        bail!("it has no BTF section");
    }
    for path in private {
        if holds(path.as_os_str().as_encoded_bytes()) {
            bail!("it names the directory {}", path.display());
        }
    }
    Ok(())
}

/// The toolchain's cargo, with everything set that the build of the programs needs.
fn cargo(toolchain: &Toolchain) -> Result<Command> {
    let compiler = &toolchain.compiler;
    let sources = cargo_home()?.join("registry/src");
    let flags: Vec<String> = FLAGS
        .iter()
        .map(|flag| (*flag).to_owned())
        .chain(remap_flags(run::workspace(), &sources, &directories(&sources)?, &compiler.sysroot))
        .collect();
    let mut command = Command::new(&compiler.cargo);
    command
        .current_dir(run::workspace())
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", UNSTABLE)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("PATH", path_with(&toolchain.linker)?)
        // A wrapper may hand back what another checkout compiled.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    Ok(command)
}

/// Flags that give every directory of this machine a fixed name; the last that matches counts.
///
/// The directory below `sources` is named after a host and a hash, so each is mapped whole.
fn remap_flags(
    workspace: &Path,
    sources: &Path,
    registries: &[PathBuf],
    sysroot: &Path,
) -> Vec<String> {
    let outer = [(sysroot, "/rust"), (workspace, "/hb"), (sources, "/crates")];
    let inner = registries.iter().map(|registry| (registry.as_path(), "/crates"));
    outer
        .into_iter()
        .chain(inner)
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

fn cargo_home() -> Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set: cannot map the paths of crates")
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.with_context(|| format!("cannot list {}", parent.display()))?.path());
    }
    found.sort();
    Ok(found)
}

fn path_with(linker: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = linker.parent().map(Path::to_owned);
    env::join_paths(first.into_iter().chain(env::split_paths(&path)))
        .with_context(|| format!("cannot put the directory of {} on PATH", linker.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_private_directory_is_mapped_and_the_inner_one_last() {
        let sources = Path::new("/home/me/.cargo/registry/src");
        let registries = [sources.join("one-1"), sources.join("two-2")];
        let flags = remap_flags(Path::new("/home/me/hb"), sources, &registries, Path::new("/usr"));
        assert_eq!(
            flags,
            [
                "--remap-path-prefix=/usr=/rust",
                "--remap-path-prefix=/home/me/hb=/hb",
                "--remap-path-prefix=/home/me/.cargo/registry/src=/crates",
                "--remap-path-prefix=/home/me/.cargo/registry/src/one-1=/crates",
                "--remap-path-prefix=/home/me/.cargo/registry/src/two-2=/crates",
            ]
        );
    }

    #[test]
    fn an_object_without_btf_or_with_a_private_path_is_refused() {
        let home = Path::new("/home/me");
        inspect(b"\x7fELF.BTF\0/hb/src", &[home]).unwrap();
        assert!(inspect(b"\x7fELF.BTF.ext\0", &[home]).is_err());
        let error = inspect(b"\x7fELF.BTF\0/home/me/hb", &[home]).unwrap_err().to_string();
        assert!(error.contains("/home/me"), "{error}");
    }
}
