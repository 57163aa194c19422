//! The control socket: how `retry` and `complete` ask the resident service, and hear how it goes.
//!
//! A line of JSON each way is a message. Only root may ask. Who goes away is not missed: the work goes on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};

use crate::failure::{Code, Failure, Named};
use crate::journal::Fault;
use crate::log::{self, Level, Line};
use crate::session::Ended;
use crate::step::StepName;
use crate::steps::lifecycle::LaunchResult;

/// The socket's name in the runtime directory.
const SOCKET: &str = "control.sock";
/// How long the service stays for those who have not heard the end yet.
const FAREWELL: Duration = Duration::from_secs(1);
/// The longest request.
const LONGEST: u64 = 4096;

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
    Refused(Fault),
    /// It is done, or it failed.
    Ended(Option<Fault>),
    /// What happens meanwhile.
    Line(Box<Line>),
}

/// A request, and who waits for the answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Asked {
    /// It will be done.
    pub fn accept(&self) {
        self.say(Answer::Accepted);
    }

    /// It will not be done.
    pub fn refuse(self, why: &Ended) {
        self.say(Answer::Refused(why.fault()));
    }

    /// It is done, or it failed.
    pub fn answer(self, failed: Option<Fault>) {
        self.say(Answer::Ended(failed));
    }

    fn say(&self, answer: Answer) {
        // Who has gone away is not missed.
        let _ = self.answers.send(answer);
    }
}

fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(SOCKET)
}

/// The service's end of the socket.
#[derive(Debug)]
pub struct Control {
    /// What is asked.
    pub requests: mpsc::Receiver<Asked>,
    /// Closed when no connection is served any more.
    served: mpsc::Receiver<()>,
}

impl Control {
    /// Lets those who were answered hear the answer: the process is about to end.
    pub async fn finish(mut self) {
        self.requests.close();
        // Dropped, what was asked and not answered ends its connection.
        while self.requests.try_recv().is_ok() {}
        let _ = timeout(FAREWELL, self.served.recv()).await;
    }
}

/// Listens in the runtime directory. The lock is held: whatever socket is there is of a service that is gone.
pub fn listen(runtime_dir: &Path) -> Result<Control, Failure> {
    let path = path(runtime_dir);
    let what = || format!("the control socket {}", path.display());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Failure::io(what(), error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).named(what())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).named(what())?;
    let (sender, requests) = mpsc::channel(1);
    let (serving, served) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (sender, serving) = (sender.clone(), serving.clone());
                        tokio::spawn(async move {
                            serve(stream, sender).await;
                            drop(serving);
                        });
                    }
                    // Too many open files, say: they come free.
                    Err(error) => {
                        tracing::warn!("the control socket: {error}");
                        sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
    });
    Ok(Control { requests, served })
}

/// One client, to the end of its request.
async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>) {
    if stream.peer_cred().is_ok_and(|peer| peer.uid() != 0) {
        return;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(LONGEST));
    let mut text = String::new();
    if reader.read_line(&mut text).await.is_err() {
        return;
    }
    let request = match serde_json::from_str(&text) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!("a request on the control socket cannot be read: {error}");
            return;
        }
    };
    // From before the request, so that nothing of what it causes is missed.
    let mut lines = log::follow();
    let (answers, mut answered) = mpsc::unbounded_channel();
    if requests.send(Asked { request, answers }).await.is_err() {
        return;
    }
    let mut following = false;
    loop {
        let answer = tokio::select! {
            // What was logged before the end comes before the end.
            biased;
            line = lines.recv(), if following => match line {
                Ok(line) => Answer::Line(Box::new(line)),
                Err(broadcast::error::RecvError::Lagged(lines)) => Answer::Line(Box::new(left_out(lines))),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            answer = answered.recv() => match answer {
                Some(answer) => answer,
                None => return,
            },
        };
        following = true;
        let last = matches!(answer, Answer::Refused(_) | Answer::Ended(_));
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        if writer.write_all(&text).await.is_err() || last {
            return;
        }
    }
}

/// For who does not take the lines as fast as they come.
fn left_out(lines: u64) -> Line {
    let message = format!("{lines} lines are left out here; the service's log has them: journalctl -u node-agent");
    Line::note(Level::Warning, message)
}

/// A request under way at the service.
#[derive(Debug)]
pub struct Pending {
    stream: BufReader<UnixStream>,
}

/// Asks the service; none where no service listens.
pub async fn ask(runtime_dir: &Path, request: Request) -> Result<Option<Pending>, Failure> {
    let path = path(runtime_dir);
    let what = || format!("asking the service at {}", path.display());
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(Failure::io(what(), error)),
    };
    let mut text = serde_json::to_vec(&request).map_err(|error| Failure::io(what(), error.into()))?;
    text.push(b'\n');
    stream.write_all(&text).await.named(what())?;
    Ok(Some(Pending { stream: BufReader::new(stream) }))
}

impl Pending {
    /// Shows what happens until the end, which it returns: none is success.
    pub async fn follow(mut self) -> Result<Option<Fault>, Failure> {
        let gone = |why: String| Failure::new(Code::ServiceGone, why);
        let mut text = String::new();
        loop {
            text.clear();
            let got = self.stream.read_line(&mut text).await;
            match got {
                Ok(0) => return Err(gone("the service ended before it had answered".to_owned())),
                Err(error) => return Err(gone("the service ended before it had answered".to_owned()).because(error)),
                Ok(_) => {}
            }
            let answer = serde_json::from_str(&text).map_err(|error| {
                gone("the service's answer cannot be read, as that of another version".to_owned()).because(error)
            })?;
            match answer {
                Answer::Accepted => {}
                Answer::Line(line) => log::show(&line),
                Answer::Refused(fault) => return Ok(Some(fault)),
                Answer::Ended(fault) => return Ok(fault),
            }
        }
    }
}
