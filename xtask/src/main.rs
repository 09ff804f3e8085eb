//! Builds, demonstrates, tests and measures hb: `cargo xtask <verb>`.

mod bench;
mod build_ebpf;
mod chaos;
mod ci;
mod demo;
mod deny;
mod fault;
mod kernel_object;
mod lab;
mod linker;
mod mutants;
mod packages;
mod plot;
mod policy;
mod prepare;
mod privilege;
mod run;
mod service;
mod simulate;
mod sources;
mod steady;
mod test;
mod timeline;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Bench(bench::Bench),
    /// Rebuild the kernel objects, which are kept in the repository
    BuildEbpf(build_ebpf::Options),
    Chaos(chaos::Chaos),
    /// Run every check that a change must pass, in the order of the table it prints
    Ci,
    Demo(demo::Demo),
    Lab(lab::Lab),
    Mutants(mutants::Mutants),
    Simulate(simulate::Simulate),
    /// Run all tests: those of every crate, then those that need a kernel
    Test(test::Options),
}

fn main() -> ExitCode {
    if let Some(code) = ::lab::agent::main(std::env::args().skip(1)) {
        return code;
    }
    let done = match Arguments::parse().verb {
        Verb::Bench(verb) => verb.run(),
        Verb::BuildEbpf(options) => build_ebpf::run(&options),
        Verb::Chaos(verb) => verb.run(),
        Verb::Ci => ci::run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Lab(verb) => verb.run(),
        Verb::Mutants(verb) => verb.run(),
        Verb::Simulate(verb) => verb.run(),
        Verb::Test(options) => test::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
