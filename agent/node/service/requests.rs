//! The service's requests, their answers, and the clients that wait for an answer.

use std::path::{Path, PathBuf};
use std::pin::pin;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::failure::{Code, FailedStep, Failure};
use crate::lifecycle::LaunchResult;
use crate::log::Line;
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, Journal};

/// The socket's name in the runtime directory.
const SOCKET: &str = "control.sock";
/// The control socket in a runtime directory.
pub(super) fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(SOCKET)
}

/// A request to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// Run the sequence again.
    Retry {
        /// Redo everything from this step on.
        from: Option<StepName>,
    },
    /// Report the progress and the end of the present work, or else the result of the last.
    Follow,
    /// Complete the launch lifecycle action.
    Complete {
        /// The result.
        result: LaunchResult,
    },
}

/// The service's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The work has begun.
    Accepted,
    /// The request is refused.
    Refused(FailedStepRecord),
    /// The work has succeeded, or it failed.
    Ended(Option<FailedStepRecord>),
    /// A line of the log meanwhile.
    Line(Box<Line>),
}

/// A request, and the way to its client.
pub struct Asked {
    pub(super) request: Request,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
}

impl Asked {
    /// Answers that the work has begun.
    pub fn accept(&self) {
        self.send(Answer::Accepted);
    }

    /// Refuses the request.
    pub fn refuse(self, why: &FailedStep) {
        self.send(Answer::Refused(why.into()));
    }

    /// Reports the end of the work.
    pub fn answer(self, failed: Option<FailedStepRecord>) {
        self.send(Answer::Ended(failed));
    }

    fn send(&self, answer: Answer) {
        // The client may have disconnected.
        let _ = self.answers.send(answer);
    }
}

/// What a client wants while the service does no work.
pub(super) enum Wanted {
    /// Another attempt. The client follows it, unless its request is refused.
    Retry,
    Complete(Asked, LaunchResult),
}

/// The requests to the service, and the clients that follow its work.
pub struct Requests {
    asked: mpsc::Receiver<Asked>,
    /// The clients that wait for the end of the present work.
    followers: Vec<Asked>,
}

impl Requests {
    /// The requests that arrive through this channel.
    pub(super) fn new(asked: mpsc::Receiver<Asked>) -> Self {
        Requests { asked, followers: Vec::new() }
    }

    /// Waits for a client that wants more than the result of the last work: a client that follows gets `last`.
    pub(super) async fn next(&mut self, journal: &Journal, last: Option<&FailedStep>) -> Option<Wanted> {
        loop {
            let asked = self.asked.recv().await?;
            match asked.request {
                Request::Follow => asked.answer(last.map(FailedStepRecord::from)),
                Request::Complete { result } => return Some(Wanted::Complete(asked, result)),
                Request::Retry { from } => {
                    match from.map(|step| journal.redo_from(step)).transpose() {
                        Ok(_) => {
                            asked.accept();
                            self.followers.push(asked);
                        }
                        Err(failure) => asked.refuse(&failure.into()),
                    }
                    return Some(Wanted::Retry);
                }
            }
        }
    }

    /// Does the work, and refuses all requests but [`Request::Follow`] meanwhile.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(asked) = self.asked.recv() => {
                    if asked.request == Request::Follow {
                        asked.accept();
                        self.followers.push(asked);
                        continue;
                    }
                    let text = format!("the service (process {}) is working on the node", std::process::id());
                    asked.refuse(&Failure::new(Code::Busy, text).into());
                }
            }
        }
    }

    /// Reports the end of the work to the clients that follow it.
    pub(super) fn answer_followers(&mut self, failed: Option<&FailedStepRecord>) {
        self.followers.drain(..).for_each(|asked| asked.answer(failed.cloned()));
    }

    /// Disconnects the clients that follow the work, because its result is unknown.
    pub(super) fn drop_followers(&mut self) {
        self.followers.clear();
    }

    /// Accepts no more requests.
    pub(super) fn close(&mut self) {
        self.asked.close();
        // To drop an unanswered request closes its connection.
        while self.asked.try_recv().is_ok() {}
    }
}
