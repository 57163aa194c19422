//! The command line and its commands.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::aws::Aws;
use crate::boot::Boot;
use crate::config::{Scope, json_schema};
use crate::failure::{Code, Failure, Named};
use crate::host::{self, blank};
use crate::journal::{self, Journal};
use crate::lock::Lock;
use crate::log::{self, Format};
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
    /// The configuration's schema
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints a shell's completions, for bash: source <(node-agent completions bash)
    Completions { shell: Shell },
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
    /// Also log what the agent asks and runs
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
            Command::Config(ConfigCommand::Schema) => print(format!("{:#}\n", json_schema::document()).as_bytes()),
            Command::Completions { shell } => print(&completions(shell)),
            Command::ReadBlank => match blank::read_stdin() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
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
            Err(error) => Err(Failure::io("starting the runtime", error).into()),
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
        eprintln!("node-agent: result=done");
        return ExitCode::SUCCESS;
    };
    let message = failure.to_string();
    if message.contains('\n') {
        eprintln!("{message}");
    }
    let reason = message.lines().next().unwrap_or_default();
    eprintln!(
        "node-agent: result=failed step={} code={} reason={reason:?} remedy={:?}",
        step.unwrap_or("start"),
        failure.code.name(),
        failure.what_to_do(),
    );
    ExitCode::from(failure.class().exit_code())
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the configuration's JSON Schema, by which editors complete and check it
    Schema,
}

/// A shell's completions, of the commands that are not hidden: clap's generators would offer those too.
fn completions(shell: Shell) -> Vec<u8> {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = clap::Command::new("node-agent").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown, "node-agent", &mut script);
    script
}

/// Writes to the standard output.
fn print(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("writing to the standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
