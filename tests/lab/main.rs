//! The lab's agents as an executable of their own, for tests, whose own `main` is the test
//! harness's.

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::agent::main(std::env::args().skip(1)).unwrap_or_else(|| {
        eprintln!("this executable only runs the agents of the lab");
        ExitCode::FAILURE
    })
}
