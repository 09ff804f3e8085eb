//! Builds, demonstrates, tests and measures hb: `cargo xtask <verb>`.

mod demo;
mod fault;
mod lab;
mod plot;
mod prepare;
mod timeline;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::Demo),
    Lab(lab::Lab),
}

fn main() -> ExitCode {
    if let Some(code) = ::lab::agent::main(std::env::args().skip(1)) {
        return code;
    }
    let done = match Cli::parse().verb {
        Verb::Demo(verb) => verb.run(),
        Verb::Lab(verb) => verb.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
