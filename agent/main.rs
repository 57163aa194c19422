//! The command line of `node-agent`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    node_agent::cli::Cli::parse().run()
}
