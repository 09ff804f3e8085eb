//! Builds, demonstrates, tests and measures hb.

mod build_ebpf;
mod ci;
mod kernel_object;
mod linker;
mod packages;
mod privilege;
mod run;
mod sources;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Rebuild the kernel objects, which are kept in the repository
    BuildEbpf(build_ebpf::Options),
    /// Run every check that a change must pass, in the order of the table it prints
    Ci,
    /// Run all tests: those of every crate, then those that need a kernel
    Test(test::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::BuildEbpf(options) => build_ebpf::run(&options),
        Verb::Ci => ci::run(),
        Verb::Test(options) => test::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
