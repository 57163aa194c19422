//! The command line and its commands, in one file: what a user can type, and the one match that runs it.

use std::io::{ErrorKind, IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use nix::unistd::geteuid;

use crate::aws::Aws;
use crate::config::json_schema;
use crate::failure::Class;
use crate::host::{blank, hook_reader, notify};
use crate::lifecycle::LaunchResult;
use crate::log::{self, Format, Level};
use crate::node::check::Check;
use crate::node::places::{PlaceOptions, Places};
use crate::node::service::{Service, retry};
use crate::node::session::Session;
use crate::node::status::report::Overall;
use crate::node::{install, plan, status};
use crate::readable;
use crate::roll;
use crate::roll::status::StatusOptions;
use crate::runner::plan::Planned;
use crate::runner::process::{self, last_words, stop_signal};
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, Phase};

/// Brings a stateful EC2 node up: volumes, filesystems, files, hooks, then CONTINUE.
#[derive(Debug, Parser)]
#[command(version, about, after_help = REPAIR)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands of a repair, for readers who have only `--help`.
const REPAIR: &str = "On a node that did not come up:
  node-agent status    which step failed, why, and what to do about it
  node-agent retry     after the repair: resumes at that step and shows the progress

Exit codes: 0 done, 1 a step failed, 2 usage, 3 not finished, 4 another process holds the lock, 5 invalid config, \
6 refused for safety, 7 the lifecycle action is lost";

const AFTER_STATUS: &str = "Examples:
  node-agent status                       the node's state; exit code 0 up, 1 held or failed, 3 not finished
  node-agent status --wait --timeout 15m  waits until it is up or has failed
  node-agent status --json                for programs
  node-agent status --plot > launch.svg   where the time went: a bar a step, waits hatched with their reason

A node that is HELD has failed and waits for a repair. When its time is over the agent sends ABANDON: Auto Scaling \
terminates the instance and launches another one. After a repair within that time: node-agent retry";

const AFTER_RETRY: &str = "Examples:
  node-agent retry                   after a repair: resumes at the step that failed
  node-agent retry --from configure  runs configure and the steps after it again, even on a node that is up

The configuration, the files and the hook script are read and fetched anew, and a step whose inputs changed is done again. \
This overwrites a [[file]] that was edited on the node: change its source instead, or /etc/node-agent/override.toml.

A retry does not extend the time for which the node is held, but one that is running when that time ends may finish. If it \
fails, the node is held for the remaining time, then the agent sends ABANDON: Auto Scaling terminates the instance. If it \
succeeds, the agent sends CONTINUE and the hold is over. The service does the work: it continues when your session is cut off.";

const AFTER_LEAVE: &str = "A node leaves by itself: when its Auto Scaling group terminates the instance and \
lifecycle.terminate_hook_name is set, the service waits while another node of [cluster] is away, calls the script's drain \
function, unmounts the volumes, detaches those with detach_on_terminate, and sends CONTINUE.";

const AFTER_ROLL: &str = "Examples:
  node-agent roll --cluster stateful-cluster=kafka                  what would be done, in which order, and why
  node-agent roll --cluster stateful-cluster=kafka --hooks hooks.sh --yes
  node-agent roll status --cluster stateful-cluster=kafka           who rolls, since when, which node

It needs credentials as the AWS CLI does, and nothing else: no configuration file, no root. A roll that is stopped or killed is \
started again with the same command, and goes on. Every rule, and what to do when a roll stops: docs/rolling.md.

Exit codes: 0 done, paused or nothing to do; 1 failed; 3 stopped by a signal; 4 another roll is at work; 6 refused";

/// How long an ending service waits while systemd does not read its notifications.
const LAST_NOTICE: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service: brings the node up, holds it after a failure, and stays
    Run(Run),
    /// Shows what each step did, why it failed, and what to do
    Status(Status),
    /// Resumes at the failed step, after the cause was repaired
    Retry(Retry),
    /// Completes the launch lifecycle action by hand
    Complete(Complete),
    /// Shows what a run would do now, and changes nothing
    Plan(Plan),
    /// Shows what this node would do if its instance were terminated now, and changes nothing
    Leave(Leave),
    /// Replaces the nodes of a cluster that are behind, one at a time; for an operator's machine
    Roll(Box<Roll>),
    /// Installs this binary and its systemd units
    Install(Install),
    /// Checks that this node can come up, and changes nothing
    Check(Check),
    /// The configuration's schema
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints a shell's completions, for bash: source <(node-agent completions bash)
    Completions { shell: Shell },
    /// At a reboot mounts the volumes of a node in service, without AWS
    #[command(hide = true)]
    MountAtBoot(Common),
    /// Reports whether the device on the standard input is blank
    #[command(name = blank::READER, hide = true)]
    ReadBlank { arguments: Vec<String> },
    /// Reads a hook's output on the standard input until its last writer ends, for the log and the agent
    #[command(name = hook_reader::READER, hide = true)]
    ReadHook { state_dir: PathBuf, step: String },
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// End after the boot sequence; a failure is not held
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_STATUS)]
struct Status {
    #[command(flatten)]
    common: Common,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Print a picture (SVG) of where the time of the launch went
    #[arg(long, conflicts_with = "json")]
    plot: bool,
    /// Wait until the node is up or has failed
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this (90s, 15m)
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_RETRY)]
struct Retry {
    #[command(flatten)]
    common: Common,
    /// Redo everything from this step on
    #[arg(long, value_name = "STEP")]
    from: Option<StepName>,
    /// Do not ask before steps are redone on a node in service
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Complete {
    /// The result to send to Auto Scaling
    result: Answer,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Answer {
    /// The instance goes into service
    Continue,
    /// The instance is terminated and replaced
    Abandon,
}

#[derive(Debug, Args)]
struct Plan {
    #[command(flatten)]
    common: Common,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_LEAVE)]
struct Leave {
    #[command(flatten)]
    plan: Plan,
    /// Only show it: a node leaves by itself once its group terminates the instance
    #[arg(long, required = true)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_ROLL, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Roll {
    #[command(subcommand)]
    command: Option<RollCommand>,
    #[command(flatten)]
    options: Option<roll::options::Options>,
    /// Also log the requests and commands
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum RollCommand {
    /// Shows who rolls, since when, which node, and who has paused it
    Status(StatusOptions),
}

#[derive(Debug, Args)]
struct Install {
    /// Start the service now, without waiting for it
    #[arg(long)]
    now: bool,
    /// Install into an image that is mounted here
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    places: PlaceOptions,
    /// The log on the standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
    /// Also log the agent's requests and commands
    #[arg(short, long)]
    verbose: bool,
}

impl Common {
    /// Starts logging, and returns the paths to use.
    fn begin(self) -> Places {
        log::init(self.log_format, self.verbose);
        Places::new(self.places)
    }
}

impl Cli {
    /// Whether the command runs on an operator's machine, where the credentials and the commands are found by the caller's environment.
    pub fn is_for_operators(&self) -> bool {
        matches!(self.command, Command::Roll(_))
    }

    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let code = self.run_command();
        log::flush();
        notify::flush(LAST_NOTICE);
        code
    }

    fn run_command(self) -> ExitCode {
        if let Some(name) = self.command.needs_root()
            && !geteuid().is_root()
        {
            return say(Level::Error, &format!("run it as root: sudo node-agent {name}"), 2);
        }
        match self.command {
            Command::Run(run) => run.start(),
            Command::Status(status) => status.show(),
            Command::Retry(retry) => retry.start(),
            Command::Complete(complete) => complete.send(),
            Command::Plan(plan) => plan.show(),
            Command::Leave(leave) => leave.show(),
            Command::Roll(roll) => roll.start(),
            Command::Install(Install { now, root }) => {
                log::init(Format::Text, false);
                report(block_on(async { Ok(install::install(&root, now).await?) }))
            }
            Command::Check(check) => check.start(),
            Command::Config(ConfigCommand::Schema) => {
                print(format!("{:#}\n", json_schema::document()).as_bytes(), ExitCode::SUCCESS)
            }
            Command::Completions { shell } => print(&completions(shell), ExitCode::SUCCESS),
            Command::MountAtBoot(common) => {
                let places = common.begin();
                report(block_on(async {
                    Ok(Session::open(places, Aws::new(), stop_signal()?)?.mount_at_boot().await?)
                }))
            }
            Command::ReadBlank { arguments } => finish_child(blank::read_stdin(&arguments)),
            Command::ReadHook { state_dir, step } => finish_child(hook_reader::read_stdin(&state_dir, &step)),
        }
    }
}

impl Command {
    /// The command's name, if only root can run it: the journal, the socket and the disks are root's.
    fn needs_root(&self) -> Option<&'static str> {
        match self {
            Command::Run(_) => Some("run"),
            Command::Status(_) => Some("status"),
            Command::Retry(_) => Some("retry"),
            Command::Complete(_) => Some("complete"),
            Command::Plan(_) => Some("plan"),
            Command::Leave(_) => Some("leave"),
            Command::Install(_) => Some("install"),
            Command::MountAtBoot(_) => Some("mount-at-boot"),
            Command::Check(check) if check.is_of_this_host() => Some("check"),
            Command::Check(_)
            | Command::Roll(_)
            | Command::Config(_)
            | Command::Completions { .. }
            | Command::ReadBlank { .. }
            | Command::ReadHook { .. } => None,
        }
    }
}

impl Run {
    fn start(self) -> ExitCode {
        let places = self.common.begin();
        let once = self.once;
        finish(block_on(async move {
            if once {
                return retry::once(places, None).await.map_err(FailedStepRecord::from);
            }
            let session = stop_signal().and_then(|stop| Session::open(places, Aws::new(), stop));
            Box::pin(Service::open(session?).run()).await.map_err(FailedStepRecord::from)
        }))
    }
}

impl Retry {
    fn start(self) -> ExitCode {
        let places = self.common.begin();
        if let Some(step) = self.from.filter(|_| !self.yes && std::io::stdin().is_terminal())
            && status::observe(&places).is_ok_and(|report| report.state == Overall::Phase(Phase::Done))
        {
            let question =
                format!("This node is up. This redoes {step} and the steps after it, hooks included. Continue? [y/N] ");
            if !confirmed(&question) {
                return say(Level::Info, "nothing was done", 2);
            }
        }
        finish(block_on(retry::retry(places, self.from)))
    }
}

impl Status {
    fn show(self) -> ExitCode {
        let places = self.common.begin();
        let report = if self.wait {
            block_on(async { Ok(status::wait(&places, self.timeout).await?) })
        } else {
            status::observe(&places).map_err(FailedStepRecord::from)
        };
        log::finish();
        if let Some(trouble) = report.as_ref().ok().and_then(|report| status::trouble(&places, report)) {
            log::say(Level::Warning, &format!("{trouble}; {}", trouble.what_to_do()));
        }
        match report {
            Ok(report) if self.plot => show_plot(&places, report.exit_code),
            Ok(report) => print(status::render(&report, self.json).as_bytes(), ExitCode::from(report.exit_code)),
            Err(fault) => report_failure(fault),
        }
    }
}

/// The picture, with the exit code of the status that it belongs to.
fn show_plot(places: &Places, exit_code: u8) -> ExitCode {
    match status::plot(places) {
        Ok((Some(picture), _)) => print(picture.as_bytes(), ExitCode::from(exit_code)),
        Ok((None, report)) => say(Level::Warning, status::render(&report, false).trim_end(), exit_code),
        Err(failure) => report_failure(failure.into()),
    }
}

impl Complete {
    fn send(self) -> ExitCode {
        let places = self.common.begin();
        let (result, consequence) = match self.result {
            Answer::Continue => {
                (LaunchResult::Continue, "Auto Scaling takes this instance into service, healthy or not.")
            }
            Answer::Abandon => {
                (LaunchResult::Abandon, "Auto Scaling terminates this instance and launches another one.")
            }
        };
        // Once a result was sent, the command only reports it: there is nothing to confirm.
        let sent = status::observe(&places)
            .is_ok_and(|report| report.state != Overall::NeverStarted && report.launch.is_some());
        if !self.yes && !sent {
            if !std::io::stdin().is_terminal() {
                return say(Level::Error, "run it at a terminal, to confirm, or with --yes", 2);
            }
            if !confirmed(&format!("{consequence} Send {result}? [y/N] ")) {
                return say(Level::Info, "nothing was sent", 2);
            }
        }
        finish(block_on(retry::complete(places, result)))
    }
}

/// Asks at the terminal, and returns whether the answer is yes.
fn confirmed(question: &str) -> bool {
    log::flush();
    let mut stderr = std::io::stderr();
    // A failed write means that the terminal is gone: then the answer fails, too.
    let _ = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

impl Plan {
    fn show(self) -> ExitCode {
        let places = self.common.begin();
        show_plan(self.json, block_on(async { Ok(Box::pin(plan::make(&places, stop_signal()?)).await?) }))
    }
}

impl Leave {
    fn show(self) -> ExitCode {
        let places = self.plan.common.begin();
        let planned = block_on(async { Ok(Box::pin(plan::make_of_departure(&places, stop_signal()?)).await?) });
        show_plan(self.plan.json, planned)
    }
}

impl Roll {
    fn start(self) -> ExitCode {
        readable::speaks_of_other_machines();
        log::init(Format::Text, self.verbose);
        if let Some(RollCommand::Status(options)) = self.command {
            return match block_on(async { Ok(Box::pin(roll::status::status(&options)).await?) }) {
                Ok(text) => print(text.as_bytes(), ExitCode::SUCCESS),
                Err(fault) => report_to_operator(&fault),
            };
        }
        let Some(options) = self.options else { return ExitCode::from(2) };
        let rolled = block_on(async { Ok(Box::pin(roll::Roll::run(options, stop_signal()?)).await?) });
        log::finish();
        match rolled {
            Ok(end) => say(Level::Info, &roll::ending(&end), 0),
            Err(fault) => report_to_operator(&fault),
        }
    }
}

fn show_plan(json: bool, planned: Result<Vec<Planned>, FailedStepRecord>) -> ExitCode {
    match planned {
        Ok(planned) => {
            let text = if json {
                serde_json::to_string_pretty(&planned).unwrap_or_default() + "\n"
            } else {
                plan::render(&planned)
            };
            print(text.as_bytes(), ExitCode::from(plan::exit_code(&planned)))
        }
        Err(fault) => report_failure(fault),
    }
}

/// The exit code of a hidden command, which only the agent runs.
fn finish_child(result: std::io::Result<()>) -> ExitCode {
    result.map_or_else(|error| say(Level::Error, &error.to_string(), 1), |()| ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = Result<T, FailedStepRecord>>) -> Result<T, FailedStepRecord> {
    process::run(work)?
}

/// Writes the last line of a run, also to the console, and returns the exit code. A run that found the lock held says nothing
/// of the node.
fn finish(result: Result<(), FailedStepRecord>) -> ExitCode {
    if result.as_ref().is_err_and(|fault| fault.exit_code == Class::Locked.exit_code()) {
        return report(result);
    }
    last_words(result.as_ref().err());
    result.map_or_else(|fault| ExitCode::from(fault.exit_code), |()| ExitCode::SUCCESS)
}

fn report(result: Result<(), FailedStepRecord>) -> ExitCode {
    result.map_or_else(report_failure, |()| ExitCode::SUCCESS)
}

fn report_failure(FailedStepRecord { exit_code, error, .. }: FailedStepRecord) -> ExitCode {
    say(Level::Error, &format!("{}; {}", error.message, readable::remedy(&error.remedy)), exit_code)
}

/// As [`report_failure`], on a machine from which AWS's commands work as typed.
fn report_to_operator(FailedStepRecord { exit_code, error, .. }: &FailedStepRecord) -> ExitCode {
    say(Level::Error, &format!("{}; {}", error.message, error.remedy), *exit_code)
}

/// Ends a command with a last line.
fn say(level: Level, text: &str, exit_code: u8) -> ExitCode {
    log::say(level, text);
    ExitCode::from(exit_code)
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the configuration's JSON Schema, by which editors complete and check it
    Schema,
}

/// A shell's completions without the hidden commands, which clap's generators would offer.
fn completions(shell: Shell) -> Vec<u8> {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = clap::Command::new("node-agent").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown, "node-agent", &mut script);
    script
}

/// Writes to the standard output.
fn print(text: &[u8], code: ExitCode) -> ExitCode {
    log::flush();
    match std::io::stdout().write_all(text) {
        // If the reader has closed the pipe, that is no error.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            say(Level::Error, &format!("writing to the standard output: {error}"), 1)
        }
        _ => code,
    }
}
