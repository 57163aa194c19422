//! The command line of `node-agent`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = node_agent::cli::Cli::parse();
    node_agent::host::environment::normalize(cli.is_for_operators());
    cli.run()
}
