//! `ec2-sim`: runs a world from a TOML file until it is told to stop.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ec2_sim::{Running, Scenario, SimError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// A simulated EC2 on loopback. Prints each instance's environment, then runs until SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The world to start.
    #[arg(long)]
    config: PathBuf,
    /// End also when stdin ends, as it does when the parent process goes.
    #[arg(long)]
    exit_with_stdin: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ec2-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), SimError> {
    let failed = |source| SimError::Io { what: "wait for the end".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Before the world starts, so that a signal during the start cleans up, too.
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
        let running = Scenario::read(&arguments.config)?.start()?;
        print(&running).map_err(failed)?;
        let stdin_ended = stdin_end(arguments.exit_with_stdin);
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            () = stdin_ended => {}
        }
        running.sim.shutdown().await;
        Ok(())
    })
}

/// The lines to evaluate in a shell, instance by instance.
fn print(running: &Running) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for instance in &running.instances {
        writeln!(out, "# {instance}")?;
        for (name, value) in running.sim.env(instance) {
            writeln!(out, "export {name}={value}")?;
        }
    }
    for page in &running.pages {
        writeln!(out, "# {page} (certificate authority: {})", running.sim.ca_pem_path().display())?;
    }
    writeln!(out, "# ready, events in {}", running.sim.events_path().display())?;
    out.flush()
}

/// Ends when stdin does, if that is asked for; else never.
async fn stdin_end(wanted: bool) {
    let (ended, end) = oneshot::channel();
    if wanted {
        // A thread of its own, which the process does not wait for: a read of stdin cannot be cancelled.
        std::thread::spawn(move || {
            let mut sink = [0; 1024];
            while io::stdin().lock().read(&mut sink).is_ok_and(|count| count > 0) {}
            let _ = ended.send(());
        });
        let _ = end.await;
    } else {
        std::future::pending::<()>().await;
    }
}
