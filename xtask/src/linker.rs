//! Finds or installs `bpf-linker`, which turns the compiler's bitcode into an object.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    packages, run,
    toolchain::{major, numbers},
};

/// The version that is installed where none is usable.
const LINKER_VERSION: &str = "0.13.0";

/// The first numbers of the oldest version that is used.
const OLDEST_LINKER: &[u32] = &[0, 13];

/// A `bpf-linker` whose LLVM has the compiler's major version, whose bitcode it reads; installed
/// when there is none.
///
/// # Errors
///
/// When there is none and LLVM or the linker cannot be installed.
pub(crate) fn find(llvm: u32) -> Result<PathBuf> {
    let installed = run::workspace().join("target/tools/bin/bpf-linker");
    let here = run::is_executable(&installed).then(|| installed.clone());
    for linker in run::which("bpf-linker").into_iter().chain(here) {
        let version = run::output(Command::new(&linker).arg("--version"))?;
        if numbers(&version).as_slice() < OLDEST_LINKER {
            eprintln!("passing over {}: {version} is too old", linker.display());
            continue;
        }
        match self::llvm(&linker)? {
            Some(of_linker) if major(&of_linker) != Some(llvm) => eprintln!(
                "passing over {}: its LLVM is {of_linker}, the compiler's is {llvm}",
                linker.display()
            ),
            Some(_) => return Ok(linker),
            None => {
                eprintln!(
                    "{} has its LLVM built in: cannot compare it with the compiler's, {llvm}",
                    linker.display()
                );
                return Ok(linker);
            }
        }
    }
    install(llvm)?;
    Ok(installed)
}

fn install(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !run::is_executable(&Path::new(&prefix).join("bin/llvm-config")) {
        let packages = needed_packages(llvm);
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        packages::install(&packages, &format!("LLVM {llvm}, for bpf-linker"))?;
    }
    eprintln!("installing bpf-linker {LINKER_VERSION} with LLVM {llvm} in target/tools");
    run::run(&mut install_command(llvm, &prefix))
}

/// LLVM and what linking with it needs.
fn needed_packages(llvm: u32) -> Vec<String> {
    vec![
        format!("llvm-{llvm}-dev"),
        format!("llvm-{llvm}"),
        format!("libpolly-{llvm}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
    ]
}

fn install_command(llvm: u32, prefix: &str) -> Command {
    let mut command = run::cargo();
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .args(["--root", "target/tools"])
        .env("LLVM_PREFIX", prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), prefix);
    command
}

/// The version of the shared LLVM that a linker is bound to; none when it has LLVM built in.
pub(crate) fn llvm(linker: &Path) -> Result<Option<String>> {
    // ldd(1) fails on a program without any shared library.
    let Ok(libraries) = run::output(Command::new("ldd").arg(linker)) else { return Ok(None) };
    let Some(library) = llvm_library(&libraries) else { return Ok(None) };
    // The name of the library lacks the last number; `llvm-config` beside it knows.
    let config = library.parent().and_then(Path::parent).map(|root| root.join("bin/llvm-config"));
    match config.filter(|config| run::is_executable(config)) {
        Some(config) => run::output(Command::new(config).arg("--version")).map(Some),
        None => {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Some(numbers(&name).iter().map(u32::to_string).collect::<Vec<_>>().join(".")))
        }
    }
}

/// The path of libLLVM in the output of ldd(1).
fn llvm_library(libraries: &str) -> Option<PathBuf> {
    let line = libraries.lines().find(|line| line.trim_start().starts_with("libLLVM"))?;
    line.split_whitespace().nth(2).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_linker_is_told_from_a_new_one() {
        assert!(numbers("bpf-linker 0.9.15").as_slice() < OLDEST_LINKER);
        assert!(numbers("bpf-linker 1.0.0").as_slice() > OLDEST_LINKER);
    }

    #[test]
    fn the_linkers_llvm_is_found_among_its_libraries() {
        let shared = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007f25f7600000)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f25f741e000)\n";
        let found = llvm_library(shared).unwrap();
        assert_eq!(found, Path::new("/usr/lib/llvm-22/lib/libLLVM.so.22.1"));
        assert_eq!(llvm_library("\tlibc.so.6 => /lib/libc.so.6 (0x0)\n"), None);
    }

    #[test]
    fn what_is_installed_follows_the_compilers_llvm() {
        assert_eq!(needed_packages(22)[..2], ["llvm-22-dev", "llvm-22"]);
        let line = run::line(&install_command(22, "/usr/lib/llvm-22"));
        assert!(line.contains("LLVM_SYS_221_PREFIX=/usr/lib/llvm-22"), "{line}");
        assert!(line.contains("--no-default-features --features llvm-22"), "{line}");
    }
}
