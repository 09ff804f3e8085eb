//! Finds the tools that turn `hb-ebpf` into kernel objects, or installs them.
//!
//! A compiler is usable when it has a compiled `core` for the BPF target, or the source of one and
//! leave to build it. Debian 12 packages the former, which is what the kept objects are built with.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{kernel_object::Versions, linker, packages, privilege, run};

/// The target of the programs: BPF, little-endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Names a rustup toolchain to be used before all others.
const CHOICE: &str = "HB_BPF_TOOLCHAIN";

/// Debian's compiler with a `core` for BPF.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// What is used, and its versions.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// `bpf-linker`.
    pub(crate) linker: PathBuf,
    /// `llvm-objcopy`.
    pub(crate) objcopy: PathBuf,
    /// Of everything that has a say in the bytes.
    pub(crate) versions: Versions,
}

/// A compiler that can build for [`TARGET`].
pub(crate) struct Compiler {
    /// The cargo to run it with.
    pub(crate) cargo: PathBuf,
    /// The compiler itself.
    pub(crate) rustc: PathBuf,
    /// Where its libraries are.
    pub(crate) sysroot: PathBuf,
    /// Whether `core` has to be built from its source first.
    pub(crate) builds_core: bool,
    version: RustcVersion,
}

/// Finds every tool, installing what is missing where that is possible.
///
/// # Errors
///
/// When a tool is missing and cannot be installed, with the commands that would.
pub(crate) fn find() -> Result<Toolchain> {
    let compiler = find_compiler()?;
    let llvm = major(&compiler.version.llvm)
        .with_context(|| format!("cannot read LLVM version {:?}", compiler.version.llvm))?;
    eprintln!(
        "building for {TARGET} with {} ({}, LLVM {})",
        compiler.rustc.display(),
        compiler.version.line,
        compiler.version.llvm
    );
    let linker = linker::find(llvm)?;
    let objcopy = find_objcopy(llvm)?;
    let versions = Versions::from([
        ("rustc".to_owned(), compiler.version.line.clone()),
        ("rustc LLVM".to_owned(), compiler.version.llvm.clone()),
        ("cargo".to_owned(), run::output(Command::new(&compiler.cargo).arg("--version"))?),
        ("linker".to_owned(), run::output(Command::new(&linker).arg("--version"))?),
        ("linker LLVM".to_owned(), linker::llvm(&linker)?.unwrap_or("built in".to_owned())),
        ("objcopy".to_owned(), objcopy_version(&objcopy)?),
    ]);
    Ok(Toolchain { compiler, linker, objcopy, versions })
}

fn find_compiler() -> Result<Compiler> {
    if let Some(name) = env::var_os(CHOICE) {
        let name = name.to_string_lossy().into_owned();
        let compiler = of_rustup(&name)
            .with_context(|| format!("cannot use the toolchain {name:?} that {CHOICE} names"))?;
        return compiler.with_context(|| {
            format!("toolchain {name:?} of {CHOICE} has neither a core for {TARGET} nor rust-src")
        });
    }
    if let Some(compiler) = of_system()? {
        return Ok(compiler);
    }
    if let Some(compiler) = of_rustup("nightly").unwrap_or_default() {
        return Ok(compiler);
    }
    if packages::is_debian() && privilege::Status::of_this_process()?.is_root() {
        packages::install(&COMPILER_PACKAGES, &format!("a compiler for {TARGET}"))?;
        if let Some(compiler) = of_system()? {
            return Ok(compiler);
        }
    }
    bail!("{}", help());
}

/// What to do where nothing usable is found and nothing can be installed.
fn help() -> String {
    format!(
        "no compiler for {TARGET} found; do one of these:\n\
         - Debian 12, as root: apt-get install {compiler}\n\
         - elsewhere: rustup toolchain install nightly --component rust-src\n\
         - have one in rustup already: set {CHOICE} to its name\n\
         Only changes to hb-ebpf need it: everything else builds with the objects in the repository",
        compiler = COMPILER_PACKAGES.join(" "),
    )
}

fn of_system() -> Result<Option<Compiler>> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    if !run::is_executable(&rustc) {
        return Ok(None);
    }
    Compiler::new(PathBuf::from(run::cargo().get_program()), rustc)
}

/// A toolchain of rustup, by name; an error when there is none of that name.
fn of_rustup(name: &str) -> Result<Option<Compiler>> {
    let tool = |tool: &str| -> Result<PathBuf> {
        let mut command = Command::new("rustup");
        // That a toolchain is absent is an answer, not a fault to trace.
        command.args(["which", "--toolchain", name, tool]).env("RUST_BACKTRACE", "0");
        let path = run::output(&mut command)?;
        Ok(PathBuf::from(path))
    };
    let rustc = tool("rustc")?;
    // A toolchain linked from elsewhere may come without cargo; any cargo will do then.
    let cargo = tool("cargo").unwrap_or_else(|_| PathBuf::from(run::cargo().get_program()));
    Compiler::new(cargo, rustc)
}

impl Compiler {
    fn new(cargo: PathBuf, rustc: PathBuf) -> Result<Option<Compiler>> {
        let sysroot =
            PathBuf::from(run::output(Command::new(&rustc).args(["--print", "sysroot"]))?);
        let text = run::output(Command::new(&rustc).arg("-vV"))?;
        let version = RustcVersion::parse(&text)
            .with_context(|| format!("cannot read `{} -vV`: {text:?}", rustc.display()))?;
        let has_core = has_core(&sysroot);
        // Only a nightly cargo builds `core`.
        let builds_core = !has_core && has_core_source(&sysroot) && version.is_nightly();
        let usable = has_core || builds_core;
        Ok(usable.then_some(Compiler { cargo, rustc, sysroot, builds_core, version }))
    }
}

fn has_core(sysroot: &Path) -> bool {
    let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

fn has_core_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

fn find_objcopy(llvm: u32) -> Result<PathBuf> {
    let packaged = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy"));
    let named = format!("llvm-objcopy-{llvm}");
    let look = || {
        run::is_executable(&packaged)
            .then(|| packaged.clone())
            .or_else(|| run::which(&named))
            .or_else(|| run::which("llvm-objcopy"))
    };
    if let Some(objcopy) = look() {
        return Ok(objcopy);
    }
    packages::install(&[&format!("llvm-{llvm}")], "llvm-objcopy")?;
    look().with_context(|| format!("package llvm-{llvm} did not bring {}", packaged.display()))
}

fn objcopy_version(objcopy: &Path) -> Result<String> {
    let text = run::output(Command::new(objcopy).arg("--version"))?;
    let line = text.lines().map(str::trim).find(|line| line.contains("LLVM version"));
    line.map(str::to_owned)
        .with_context(|| format!("`{} --version` names no LLVM version", objcopy.display()))
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
struct RustcVersion {
    line: String,
    release: String,
    llvm: String,
}

impl RustcVersion {
    fn parse(text: &str) -> Option<RustcVersion> {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        Some(RustcVersion {
            line: text.lines().next()?.to_owned(),
            release: value("release:")?,
            llvm: value("LLVM version:")?,
        })
    }

    fn is_nightly(&self) -> bool {
        self.release.ends_with("-nightly")
    }
}

/// The numbers of the first dotted version in the text.
pub(crate) fn numbers(text: &str) -> Vec<u32> {
    let Some(start) = text.find(|letter: char| letter.is_ascii_digit()) else { return Vec::new() };
    let end = text[start..]
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .map_or(text.len(), |length| start + length);
    text[start..end].split('.').map_while(|number| number.parse().ok()).collect()
}

/// The first number of a version.
pub(crate) fn major(version: &str) -> Option<u32> {
    numbers(version).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                           binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n\
                           LLVM version: 22.1.8\n";

    #[test]
    fn the_compiler_says_its_versions() {
        let version = RustcVersion::parse(VERBOSE).unwrap();
        assert_eq!(
            version.line,
            "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"
        );
        assert_eq!(major(&version.llvm), Some(22));
        assert!(!version.is_nightly());
        let nightly = RustcVersion::parse(&VERBOSE.replace(": 1.96.0", ": 1.97.0-nightly"));
        assert!(nightly.unwrap().is_nightly());
        assert_eq!(RustcVersion::parse("rustc 1.96.0\nrelease: 1.96.0\n"), None);
    }

    #[test]
    fn versions_are_read_as_numbers() {
        assert_eq!(numbers("bpf-linker 0.13.0"), [0, 13, 0]);
        assert_eq!(numbers("libLLVM.so.22.1"), [22, 1]);
        assert_eq!(numbers("libLLVM-22.so"), [22]);
        assert!(numbers("none").is_empty());
    }

    #[test]
    fn a_sysroot_without_a_compiled_core_is_not_usable() {
        let sysroot = tempfile::tempdir().unwrap();
        let libraries = sysroot.path().join("lib/rustlib").join(TARGET).join("lib");
        assert!(!has_core(sysroot.path()));
        fs::create_dir_all(&libraries).unwrap();
        fs::write(libraries.join("libcompiler_builtins-1.rlib"), "").unwrap();
        assert!(!has_core(sysroot.path()));
        fs::write(libraries.join("libcore-1.rlib"), "").unwrap();
        assert!(has_core(sysroot.path()));
    }
}
