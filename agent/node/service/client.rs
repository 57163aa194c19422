//! The client's end of the control socket: requests to the service, and why it cannot be reached.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::requests::{Answer, Request, path};
use crate::failure::{Code, Failure, Named};
use crate::host::process;
use crate::log;
use crate::state::FailedStepRecord;

/// After this long without an answer the service counts as stopped or hanging.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// A request that was sent to the service.
pub struct Pending {
    stream: BufReader<UnixStream>,
    /// The service's process, if its id is valid in this pid namespace.
    service: Option<i32>,
}

/// Sends a request to the service; none if no service listens.
pub async fn ask(runtime_dir: &Path, request: Request) -> Result<Option<Pending>, Failure> {
    let path = path(runtime_dir);
    let what = || format!("asking the service at {}", path.display());
    let give_up = Instant::now() + FIRST_ANSWER;
    let mut stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            // `NotADirectory`: a file is in the place of the runtime directory.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            // The kernel's queue of connections is full.
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < give_up => sleep(POLL).await,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(hangs(None)),
            Err(error) => return Err(Failure::io(what(), error)),
        }
    };
    let service = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
    let mut text = serde_json::to_vec(&request).map_err(|error| Failure::io(what(), error.into()))?;
    text.push(b'\n');
    match stream.write_all(&text).await {
        // The service has dropped this client or is ending: the read below shows which.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        written => written.named(what())?,
    }
    Ok(Some(Pending { stream: BufReader::new(stream), service }))
}

/// The failure of a service that does not answer.
fn hangs(service: Option<i32>) -> Failure {
    let Some(pid) = service else {
        return Failure::new(Code::ServiceHangs, "the service is stopped or hangs");
    };
    let state = process::state(pid);
    let shown = state.map_or_else(String::new, |state| format!(" (state {state})"));
    let failure = Failure::new(Code::ServiceHangs, format!("the service (process {pid}) is stopped or hangs{shown}"));
    if state.is_some_and(process::is_stopped) {
        failure.remedy(format!("kill -CONT {pid}, or: systemctl restart node-agent"))
    } else {
        failure
            .remedy(format!("see what it waits for (cat /proc/{pid}/stack; dmesg), or: systemctl restart node-agent"))
    }
}

fn is_stopped(pid: i32) -> bool {
    process::state(pid).is_some_and(process::is_stopped)
}

/// The failure of a service that runs, but has no socket.
pub fn unreachable(runtime_dir: &Path, pid: i32) -> Failure {
    let text = format!(
        "the service (process {pid}) cannot be reached: its control socket {} is missing",
        path(runtime_dir).display()
    );
    Failure::new(Code::ServiceUnreachable, text).remedy(format!(
        "free space in {0} (df -h {0}; df -i {0}), then the service restores the socket within 10 s; or: systemctl restart node-agent",
        runtime_dir.display()
    ))
}

/// Why commands cannot reach the service with this pid, if that is known without a request.
pub fn trouble(runtime_dir: &Path, pid: i32) -> Option<Failure> {
    if !process::is_service(pid) {
        return None;
    }
    if is_stopped(pid) {
        return Some(hangs(Some(pid)));
    }
    (!path(runtime_dir).exists()).then(|| unreachable(runtime_dir, pid))
}

impl Pending {
    /// Shows the service's log lines until the end, and returns the failure; none is success. A healthy service answers at once,
    /// even while it is busy.
    pub async fn follow(mut self) -> Result<Option<FailedStepRecord>, Failure> {
        let gone = |why: &str| Failure::new(Code::ServiceGone, why);
        let mut text = Vec::new();
        let mut answered = false;
        loop {
            text.clear();
            let got = loop {
                match timeout(FIRST_ANSWER, self.stream.read_until(b'\n', &mut text)).await {
                    Ok(got) => break got,
                    Err(_) if !answered || self.service.is_some_and(is_stopped) => return Err(hangs(self.service)),
                    // The service is busy. Only a stopped process is not waited for.
                    Err(_) => {}
                }
            };
            match got {
                Ok(0) => return Err(gone("the service ended before it answered")),
                Err(error) => return Err(gone("the service ended before it answered").because(error)),
                Ok(_) => {}
            }
            answered = true;
            let answer = serde_json::from_slice(&text).map_err(|error| {
                gone("the service's answer cannot be read: the service may be of another version").because(error)
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
