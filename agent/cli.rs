//! The command line and its commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::aws::Aws;
use crate::boot::Boot;
use crate::config::Scope;
use crate::failure::{Code, Failure, Named};
use crate::host::{self, blank};
use crate::journal::{self, Journal};
use crate::lock::Lock;
use crate::log::{self, Format, Level};
use crate::settings;
use crate::step::Stopped;
use crate::steps::fetch::prepare_scratch;

/// Brings a stateful EC2 node up: volumes, filesystems, files, hooks, then CONTINUE.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a step failed, 2 usage, 3 not finished, 4 another process holds the lock, \
5 invalid config, 6 refused for safety, 7 the lifecycle action is lost";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the boot sequence
    Run(Run),
    /// Reads the device on the standard input and says whether it is blank
    #[command(name = blank::READER, hide = true)]
    ReadBlank,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// End after the boot sequence
    #[arg(long, required = true)]
    once: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration: a path, or "imds" for the instance's user data
    #[arg(long, value_name = "PATH", default_value = settings::CONFIG)]
    config: String,
    /// Where the journal and the lock are [default: $STATE_DIRECTORY or /var/lib/node-agent]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The log on the standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
    /// Log more
    #[arg(short, long)]
    verbose: bool,
}

impl Common {
    fn state_dir(&self) -> PathBuf {
        // systemd separates several directories by colons; the first is ours.
        let first = |dirs: OsString| {
            let dirs = dirs.into_string().ok()?;
            dirs.split(':').next().filter(|dir| !dir.is_empty()).map(PathBuf::from)
        };
        self.state_dir
            .clone()
            .or_else(|| std::env::var_os("STATE_DIRECTORY").and_then(first))
            .unwrap_or_else(|| PathBuf::from("/var/lib/node-agent"))
    }
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.start(),
            Command::ReadBlank => match blank::read_stdin() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    log::say(Level::Error, &error.to_string());
                    ExitCode::FAILURE
                }
            },
        }
    }
}

/// A failure that may have happened in a step.
struct Ended {
    step: Option<&'static str>,
    failure: Failure,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended { step: None, failure }
    }
}

impl From<Stopped> for Ended {
    fn from(stopped: Stopped) -> Self {
        Ended { step: Some(stopped.step.as_str()), failure: stopped.failure }
    }
}

impl Run {
    fn start(self) -> ExitCode {
        log::init(self.common.log_format, self.common.verbose);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => {
                let result = runtime.block_on(self.once());
                // A child that hangs in a read is left behind, not waited for.
                runtime.shutdown_background();
                result
            }
            Err(error) => Err(Failure::io("the runtime", error).into()),
        };
        finish(result)
    }

    async fn once(&self) -> Result<(), Ended> {
        let stop = stop_signal()?;
        let aws = Aws::new();
        let config = settings::load(&self.common.config, &aws.imds, Scope::ThisHost).await?;
        let state_dir = self.common.state_dir();
        journal::private_dir(&state_dir).map_err(|error| {
            Failure::new(Code::StateUnusable, format!("making {}", state_dir.display())).because(error)
        })?;
        let _lock = Lock::take(&state_dir)?;
        let boot_id = host::boot_id()?;
        let journal = Journal::open(&state_dir, &boot_id, &config.digest)?;
        let scratch = state_dir.join("fetched");
        prepare_scratch(&scratch)?;
        let boot = Boot { config: &config, journal: &journal, aws: &aws, scratch: &scratch, boot_id: &boot_id, stop };
        Ok(Box::pin(boot.bring_up()).await?)
    }
}

/// Becomes true at SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).named("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).named("waiting for SIGINT")?;
    // That the terminal goes away is no reason to stop. Handled instead of ignored, because children inherit the latter; the
    // handler stays.
    drop(signal(SignalKind::hangup()).named("handling SIGHUP")?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Without receivers the run is over anyway.
        let _ = sender.send(true);
        // The channel stays open as long as the process: a closed one would look like a stop.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// The last line of every run, and the exit code.
fn finish(result: Result<(), Ended>) -> ExitCode {
    let Err(Ended { step, failure }) = result else {
        let last = "node-agent: result=done";
        log::last_words(Level::Info, last, last);
        return ExitCode::SUCCESS;
    };
    let message = failure.to_string();
    if message.contains('\n') {
        log::say(Level::Error, &message);
    }
    let reason = message.lines().next().unwrap_or_default();
    // What a hook printed may be secret, and the console is not.
    let public = reason.split("; its last lines: ").next().unwrap_or_default();
    let last = |reason: &str| {
        format!(
            "node-agent: result=failed step={} code={} reason={reason:?} remedy={:?}",
            step.unwrap_or("start"),
            failure.code.name(),
            failure.what_to_do(),
        )
    };
    log::last_words(Level::Error, &last(reason), &last(public));
    ExitCode::from(failure.class().exit_code())
}
