//! The agent's process: its stop signal and its last line.

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{self, Code, Failure, Named};
use crate::log::{self, Level};
use crate::readable;
use crate::state::FailedStepRecord;

/// Runs `work` to its end on this thread. A child or a name look-up that hangs is abandoned.
pub fn run<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().named("starting the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(result)
}

/// Becomes true at SIGTERM or SIGINT. A closed terminal (SIGHUP) does not stop the agent.
pub fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).named("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).named("waiting for SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).named("waiting for SIGHUP")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => {}
            }
        }
        // Without receivers the run has ended anyway.
        let _ = sender.send(true);
        // Keeps the channel open: a closed one would look like a stop signal.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// Logs the result as the last line of a run, and shows it on the machine's console for operators who cannot log in.
pub fn last_words(fault: Option<&FailedStepRecord>) {
    let Some(FailedStepRecord { step, error, .. }) = fault else {
        let last = "node-agent: result=done";
        return log::last_words(Level::Info, last, last);
    };
    if error.message.contains('\n') {
        log::say(Level::Error, &error.message);
    }
    let stopped = error.code == Code::Stopped.name();
    let last = |message: &str| {
        format!(
            "node-agent: result={} step={} code={} reason={:?} remedy={:?}",
            if stopped { "stopped" } else { "failed" },
            failure::place(*step),
            error.code,
            readable::line(message.lines().next().unwrap_or_default()),
            readable::remedy(&error.remedy),
        )
    };
    let level = if stopped { Level::Info } else { Level::Error };
    log::last_words(level, &last(&error.message), &last(&error.public));
}
