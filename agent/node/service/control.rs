//! The control socket, the service's end: how `retry` and `complete` ask it, and hear how it goes.
//!
//! A line of JSON each way is a message. Only root may ask. Clients may disconnect; the work continues.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};

use super::requests::{Answer, Asked, Request, Requests, path};
use crate::log::{self, Level, Line};
use crate::node::lock::Lock;
use crate::state::publish::{self, Publisher};

/// How long the service stays for those who have not heard the end yet.
const FAREWELL: Duration = Duration::from_secs(1);
/// The longest request.
const LONGEST: usize = 4096;
/// How long a client may take to send its request.
const ASKING: Duration = Duration::from_secs(5);
/// How many clients are served at once.
const MOST: usize = 64;
/// A client that has come this recently is not dropped for another one.
const GRACE: Duration = Duration::from_millis(50);
/// After an error of accept(2).
const AFTER_AN_ERROR: Duration = Duration::from_millis(20);
/// How often the service looks whether its socket is still there.
const LOOK: Duration = Duration::from_secs(4);
/// Between two words about clients that were turned away.
const SAYING_AGAIN: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);

/// The service's end of the socket.
#[derive(Debug)]
pub struct Control {
    /// What is asked.
    pub(super) requests: Requests,
    /// Closed when no connection is served any more.
    served: mpsc::Receiver<()>,
}

impl Control {
    /// Lets those who were answered hear the answer: the process is about to end.
    pub async fn finish(mut self) {
        self.requests.close();
        let _ = timeout(FAREWELL, self.served.recv()).await;
    }
}

/// Listens in the runtime directory, as long as the service lives. The lock is held: whatever socket is there is of a service
/// that is gone.
///
/// A directory that takes no socket (read-only, full) or is deleted is no reason to end the service: it tries again every few
/// seconds, and has `publisher` publish again what is missing there.
pub fn listen(runtime_dir: &Path, publisher: Publisher) -> Control {
    let (sender, requests) = mpsc::channel(1);
    let (serving, served) = mpsc::channel(1);
    let mut socket = Socket { dir: runtime_dir.to_owned(), bound: None, trouble: None, lock: None };
    socket.look_after();
    tokio::spawn(attend(socket, publisher, sender, serving));
    Control { requests: Requests::new(requests), served }
}

/// The socket, which is made again where it is gone.
struct Socket {
    dir: PathBuf,
    bound: Option<(UnixListener, FileId)>,
    /// Why it cannot be made, where that has been said.
    trouble: Option<String>,
    /// That of a runtime directory which was made again.
    lock: Option<Lock>,
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Socket {
    /// Makes it where it is missing. Somebody else's file in its place counts as missing.
    fn look_after(&mut self) {
        let path = path(&self.dir);
        let was_bound = self.bound.is_some();
        if let Some((_, id)) = &self.bound
            && file_id(&path).is_ok_and(|there| there == *id)
        {
            return;
        }
        self.bound = None;
        match self.bind(&path) {
            Ok(bound) => {
                self.bound = Some(bound);
                if was_bound || self.trouble.is_some() {
                    tracing::warn!("the control socket {} was missing and is there again", path.display());
                }
                self.trouble = None;
            }
            Err(error) => {
                let trouble = error.to_string();
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(
                        "the control socket {} cannot be made ({trouble}): until it can, node-agent retry and complete do not \
                         reach this service, which goes on and tries again every {} s",
                        path.display(),
                        LOOK.as_secs()
                    );
                }
                self.trouble = Some(trouble);
            }
        }
    }

    fn bind(&mut self, path: &Path) -> io::Result<(UnixListener, FileId)> {
        publish::try_make_dir(&self.dir)?;
        // A directory that was made again has a lock that nobody holds; in another one this fails, because it is held.
        if let Ok(lock) = Lock::again(&self.dir) {
            self.lock = Some(lock);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok((listener, file_id(path)?))
    }

    /// The next client, with what it has sent already; none where that is nothing that can be served.
    async fn accept(&self) -> io::Result<Result<Newcomer, &'static str>> {
        let Some((listener, _)) = &self.bound else { return std::future::pending().await };
        let (stream, _) = listener.accept().await?;
        Newcomer::new(stream)
    }
}

/// A client that has just come.
struct Newcomer {
    stream: UnixStream,
    /// What it has sent, at most a line.
    sent: Vec<u8>,
}

impl Newcomer {
    /// Reads what is there, so that one that has gone already or sends rubbish takes no place and hardly any time: some may
    /// come faster than they could be served in turn.
    fn new(stream: UnixStream) -> io::Result<Result<Self, &'static str>> {
        // tokio's own reads nothing before the next turn of its event loop.
        let mut stream = stream.into_std()?;
        let mut sent = Vec::new();
        // Until nothing is left to read: more may arrive between two reads, and every byte taken from the socket is a part of the
        // request.
        while sent.len() < LONGEST {
            let mut piece = [0; LONGEST];
            match stream.read(&mut piece[sent.len()..]) {
                Ok(0) if sent.is_empty() => return Ok(Err("nothing was asked")),
                // The client was told that the service hangs, and has left: its request must not take effect later.
                Ok(0) => return Ok(Err("the client has left")),
                Ok(length) => {
                    let began = sent.len();
                    sent.extend_from_slice(&piece[began..began + length]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Ok(Err("the connection was reset")),
            }
        }
        match sent.iter().position(|byte| *byte == b'\n') {
            Some(end) if serde_json::from_slice::<Request>(&sent[..end]).is_err() => return Ok(Err(UNREADABLE)),
            None if sent.len() == LONGEST => return Ok(Err(UNREADABLE)),
            Some(_) | None => {}
        }
        let stream = UnixStream::from_std(stream)?;
        if stream.peer_cred().is_ok_and(|peer| peer.uid() != 0) {
            return Ok(Err("the peer is not root"));
        }
        Ok(Ok(Newcomer { stream, sent }))
    }

    fn has_asked(&self) -> bool {
        self.sent.contains(&b'\n')
    }
}

/// Why a client is turned away whose request is none.
const UNREADABLE: &str = "the request cannot be read";

/// Takes clients on until the service ends.
async fn attend(mut socket: Socket, publisher: Publisher, requests: mpsc::Sender<Asked>, serving: mpsc::Sender<()>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clients = Clients::default();
    loop {
        let has_room = clients.make_room();
        tokio::select! {
            () = requests.closed() => return,
            _ = look.tick() => {
                socket.look_after();
                publisher.restore();
                clients.say_what_was_wrong();
            }
            () = sleep(POLL), if !has_room => {}
            accepted = socket.accept(), if has_room => match accepted {
                Ok(Ok(newcomer)) => clients.serve(newcomer, requests.clone(), serving.clone()),
                Ok(Err(why)) => clients.wrong.note(why),
                // Too many open files, say: they come free.
                Err(error) => {
                    clients.wrong.note(&error.to_string());
                    clients.drop_one();
                    sleep(AFTER_AN_ERROR).await;
                }
            },
        }
    }
}

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    /// It has not sent its request yet.
    Asking,
    /// It does not take what it is told.
    Stalled,
    /// It is told what happens.
    Following,
}

/// A client's stage, shared with what serves it.
#[derive(Clone)]
struct At(Arc<AtomicU8>);

impl At {
    fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn is(&self, stage: Stage) -> bool {
        self.0.load(Ordering::Relaxed) == stage as u8
    }
}

struct Client {
    since: Instant,
    at: At,
    task: AbortHandle,
}

/// Those who are connected, oldest first.
#[derive(Default)]
struct Clients {
    all: Vec<Client>,
    wrong: Wrong,
    /// When it was said what was wrong with some.
    said: Option<Instant>,
}

impl Clients {
    fn serve(&mut self, newcomer: Newcomer, requests: mpsc::Sender<Asked>, serving: mpsc::Sender<()>) {
        let stage = if newcomer.has_asked() { Stage::Following } else { Stage::Asking };
        let at = At(Arc::new(AtomicU8::new(stage as u8)));
        let (theirs, wrong) = (at.clone(), self.wrong.clone());
        let task = tokio::spawn(async move {
            if let Err(why) = serve(newcomer, requests, &theirs).await {
                wrong.note(&why);
            }
            drop(serving);
        });
        self.all.push(Client { since: Instant::now(), at, task: task.abort_handle() });
    }

    /// Whether another client may come. Where there are too many, one is dropped, so that whoever has something to ask gets in.
    /// One that has just come is given the time to send its request.
    fn make_room(&mut self) -> bool {
        self.all.retain(|client| !client.task.is_finished());
        if self.all.len() < MOST {
            return true;
        }
        let patient = self.all.iter().any(|client| client.at.is(Stage::Asking) && client.since.elapsed() < GRACE);
        let overdue = |client: &Client| client.at.is(Stage::Asking) && client.since.elapsed() >= GRACE;
        if patient && !self.all.iter().any(overdue) {
            return false;
        }
        self.drop_one();
        true
    }

    /// Drops the oldest client that has not sent its request; or else the oldest that does not take its answer, or the oldest.
    fn drop_one(&mut self) {
        let stages = [Stage::Asking, Stage::Stalled, Stage::Following];
        let oldest = stages.into_iter().find_map(|stage| self.all.iter().position(|client| client.at.is(stage)));
        if let Some(oldest) = oldest {
            self.all.remove(oldest).task.abort();
            self.wrong.note("there were too many");
        }
    }

    /// Once a minute, so that who cannot ask properly does not fill the log.
    fn say_what_was_wrong(&mut self) {
        if self.said.is_some_and(|said| said.elapsed() < SAYING_AGAIN) {
            return;
        }
        if let Some((number, last)) = self.wrong.take() {
            self.said = Some(Instant::now());
            tracing::warn!(
                "{number} connections to the control socket were closed without an answer (the last: {last})"
            );
        }
    }
}

/// How many clients were turned away, and why the last one.
#[derive(Clone, Default)]
struct Wrong(Arc<Mutex<(u64, String)>>);

impl Wrong {
    fn note(&self, why: &str) {
        let mut wrong = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.0 += 1;
        why.clone_into(&mut wrong.1);
    }

    fn take(&self) -> Option<(u64, String)> {
        let wrong = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (wrong.0 > 0).then_some(wrong)
    }
}

/// One client, to the end of its request. An error is why it was not served.
async fn serve(newcomer: Newcomer, requests: mpsc::Sender<Asked>, at: &At) -> Result<(), String> {
    let Newcomer { stream, sent: mut text } = newcomer;
    let (reader, mut writer) = stream.into_split();
    if !text.contains(&b'\n') {
        let mut reader = BufReader::new(reader.take((LONGEST - text.len()) as u64));
        match timeout(ASKING, reader.read_until(b'\n', &mut text)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no request within {} s", ASKING.as_secs())),
        }
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let request = serde_json::from_slice(line).map_err(|error| format!("{UNREADABLE}: {error}"))?;
    at.set(Stage::Following);
    // From before the request, so that nothing of what it causes is missed.
    let mut lines = log::follow();
    let (answers, mut answered) = mpsc::unbounded_channel();
    if requests.send(Asked { request, answers }).await.is_err() {
        return Ok(());
    }
    let mut following = false;
    loop {
        let answer = tokio::select! {
            // What was logged before the end comes before the end.
            biased;
            line = lines.recv(), if following => match line {
                Ok(line) => Answer::Line(Box::new(line)),
                Err(broadcast::error::RecvError::Lagged(lines)) => Answer::Line(Box::new(left_out(lines))),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            answer = answered.recv() => match answer {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        following = true;
        let last = matches!(answer, Answer::Refused(_) | Answer::Ended(_));
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        at.set(Stage::Stalled);
        if writer.write_all(&text).await.is_err() || last {
            return Ok(());
        }
        at.set(Stage::Following);
    }
}

/// For who does not take the lines as fast as they come.
fn left_out(lines: u64) -> Line {
    let message = format!("{lines} lines are left out here; the service's log has them: journalctl -u node-agent");
    Line::note(Level::Warning, message)
}
