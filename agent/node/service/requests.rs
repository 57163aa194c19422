//! What can be asked of the service, what it answers, and who waits for an answer.

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

/// What can be asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// To have another go at the sequence.
    Retry {
        /// To redo everything from this step on.
        from: Option<StepName>,
    },
    /// To tell what happens until the work under way is at its end, or how the last one ended.
    Follow,
    /// To complete the launch lifecycle action.
    Complete {
        /// With this result.
        result: LaunchResult,
    },
}

/// What the service says to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is at work on it.
    Accepted,
    /// It will not be done.
    Refused(FailedStepRecord),
    /// It is done, or it failed.
    Ended(Option<FailedStepRecord>),
    /// What happens meanwhile.
    Line(Box<Line>),
}

/// A request, and who waits for the answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
}

impl Asked {
    /// It will be done.
    pub fn accept(&self) {
        self.say(Answer::Accepted);
    }

    /// It will not be done.
    pub fn refuse(self, why: &FailedStep) {
        self.say(Answer::Refused(why.into()));
    }

    /// It is done, or it failed.
    pub fn answer(self, failed: Option<FailedStepRecord>) {
        self.say(Answer::Ended(failed));
    }

    fn say(&self, answer: Answer) {
        // The client may have disconnected.
        let _ = self.answers.send(answer);
    }
}

/// What is asked of the service, and who follows its work.
#[derive(Debug)]
pub struct Requests {
    asked: mpsc::Receiver<Asked>,
    /// Those who wait for the end of the work under way.
    followers: Vec<Asked>,
}

impl Requests {
    /// Those that come from the socket.
    pub(super) fn new(asked: mpsc::Receiver<Asked>) -> Self {
        Requests { asked, followers: Vec::new() }
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }

    /// Does the work; who asks for something meanwhile is told that the agent is at work.
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
                    let text = format!("the service (process {}) is at work on the node", std::process::id());
                    asked.refuse(&Failure::new(Code::Busy, text).into());
                }
            }
        }
    }

    /// Another go, whose end is waited for; from a step on where that is asked for.
    pub(super) fn again(&mut self, journal: &Journal, asked: Asked, from: Option<StepName>) {
        match from.map(|step| journal.redo_from(step)).transpose() {
            Ok(_) => {
                asked.accept();
                self.followers.push(asked);
            }
            Err(failure) => asked.refuse(&failure.into()),
        }
    }

    /// Tells those who wait for the end what it was.
    pub(super) fn settle(&mut self, how: Option<&FailedStepRecord>) {
        self.followers.drain(..).for_each(|asked| asked.answer(how.cloned()));
    }

    /// How the work ends is not known: those who wait for it are told nothing.
    pub(super) fn dismiss(&mut self) {
        self.followers.clear();
    }

    /// Takes no more.
    pub(super) fn close(&mut self) {
        self.asked.close();
        // Dropped, what was asked and not answered ends its connection.
        while self.asked.try_recv().is_ok() {}
    }
}
