//! The service's end of the control socket: `retry` and `complete` send their requests through it and follow the work.
//!
//! Each message is one line of JSON. Only root may connect. Clients may disconnect; the work continues.

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

/// How long the service waits at its end until all clients have received their answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The longest request, in bytes.
const REQUEST_LIMIT: usize = 4096;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The most clients that are served at once.
const CLIENT_LIMIT: usize = 64;
/// A client that connected this recently is not dropped for another one.
const GRACE: Duration = Duration::from_millis(50);
/// The pause after an error of accept(2).
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// How often the service checks that its socket still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// The shortest interval between two warnings about rejected clients.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);

/// The service's end of the socket.
pub struct Control {
    pub(super) requests: Requests,
    /// Closed once no connection is served any more.
    served: mpsc::Receiver<()>,
}

impl Control {
    /// Waits until the clients have received their answers: the process is about to end.
    pub async fn finish(mut self) {
        self.requests.close();
        let _ = timeout(LAST_ANSWERS, self.served.recv()).await;
    }
}

/// Listens in the runtime directory for the service's life. The caller holds the lock: an existing socket is left over from a
/// dead service.
///
/// A runtime directory that is read-only, full or deleted does not end the service: every few seconds it tries again to bind
/// the socket, and `publisher` restores its missing files.
pub fn listen(runtime_dir: &Path, publisher: Publisher) -> Control {
    let (sender, requests) = mpsc::channel(1);
    let (serving, served) = mpsc::channel(1);
    let mut socket = Socket { dir: runtime_dir.to_owned(), bound: None, last_error: None, lock: None };
    socket.ensure_bound();
    tokio::spawn(admit(socket, publisher, sender, serving));
    Control { requests: Requests::new(requests), served }
}

/// The socket, which is bound again if it disappears.
struct Socket {
    dir: PathBuf,
    bound: Option<(UnixListener, FileId)>,
    /// The last error that was logged, while the socket cannot be bound.
    last_error: Option<String>,
    /// The lock in a runtime directory that was created again.
    lock: Option<Lock>,
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Socket {
    /// Binds the socket if it is missing. A foreign file in its place counts as missing.
    fn ensure_bound(&mut self) {
        let path = path(&self.dir);
        if let Some((_, id)) = &self.bound
            && file_id(&path).is_ok_and(|there| there == *id)
        {
            return;
        }
        let was_bound = self.bound.take().is_some();
        match self.bind(&path) {
            Ok(bound) => {
                self.bound = Some(bound);
                if was_bound || self.last_error.is_some() {
                    tracing::warn!("the control socket {} was missing and has been restored", path.display());
                }
                self.last_error = None;
            }
            Err(error) => {
                let error_text = error.to_string();
                if self.last_error.as_ref() != Some(&error_text) {
                    tracing::warn!(
                        "the control socket {} cannot be created ({error_text}): until it is, node-agent retry and complete cannot \
                         reach this service, which keeps running and tries again every {} s",
                        path.display(),
                        CHECK_INTERVAL.as_secs()
                    );
                }
                self.last_error = Some(error_text);
            }
        }
    }

    fn bind(&mut self, path: &Path) -> io::Result<(UnixListener, FileId)> {
        publish::try_make_dir(&self.dir)?;
        // Succeeds only in a directory that was created again: in the original one this process holds the lock already.
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

    /// The next client with the bytes that it has sent, or why it is rejected.
    async fn accept(&self) -> io::Result<Result<Newcomer, &'static str>> {
        let Some((listener, _)) = &self.bound else { return std::future::pending().await };
        let (stream, _) = listener.accept().await?;
        Newcomer::new(stream)
    }
}

/// A client that has just connected.
struct Newcomer {
    stream: UnixStream,
    /// The bytes that it has sent, at most a line.
    sent: Vec<u8>,
}

impl Newcomer {
    /// Reads what has arrived, so that a client that has disconnected or sends rubbish costs neither a place nor much time: such
    /// clients may connect faster than each could be served.
    fn new(stream: UnixStream) -> io::Result<Result<Self, &'static str>> {
        // tokio's own stream reads nothing before the next turn of its event loop.
        let mut stream = stream.into_std()?;
        let mut sent = Vec::new();
        // Until nothing is left: more may arrive between two reads, and every byte belongs to the request.
        while sent.len() < REQUEST_LIMIT {
            let mut piece = [0; REQUEST_LIMIT];
            match stream.read(&mut piece[sent.len()..]) {
                Ok(0) if sent.is_empty() => return Ok(Err("no request was sent")),
                // The client has reported that the service hangs, and ended: its request must not take effect later.
                Ok(0) => return Ok(Err("the client has disconnected")),
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
            None if sent.len() == REQUEST_LIMIT => return Ok(Err(UNREADABLE)),
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

/// Why a client with an invalid request is rejected.
const UNREADABLE: &str = "the request cannot be read";

/// Admits clients until the service ends.
async fn admit(mut socket: Socket, publisher: Publisher, requests: mpsc::Sender<Asked>, serving: mpsc::Sender<()>) {
    let mut look = tokio::time::interval(CHECK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clients = Clients::default();
    loop {
        let has_room = clients.make_room();
        tokio::select! {
            () = requests.closed() => return,
            _ = look.tick() => {
                socket.ensure_bound();
                publisher.restore();
                clients.warn_of_rejected();
            }
            () = sleep(POLL), if !has_room => {}
            accepted = socket.accept(), if has_room => match accepted {
                Ok(Ok(newcomer)) => clients.serve(newcomer, requests.clone(), serving.clone()),
                Ok(Err(why)) => clients.rejected.note(why),
                // Too many open files, for example: that passes.
                Err(error) => {
                    clients.rejected.note(&error.to_string());
                    clients.drop_one();
                    sleep(ERROR_PAUSE).await;
                }
            },
        }
    }
}

/// The stage of a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    /// It has not sent its request yet.
    Asking,
    /// It does not read what it is sent.
    Stalled,
    /// It follows the work.
    Following,
}

/// A client's stage, shared with its task.
#[derive(Clone)]
struct SharedStage(Arc<AtomicU8>);

impl SharedStage {
    fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn is(&self, stage: Stage) -> bool {
        self.0.load(Ordering::Relaxed) == stage as u8
    }
}

struct Client {
    since: Instant,
    at: SharedStage,
    task: AbortHandle,
}

/// The connected clients, oldest first.
#[derive(Default)]
struct Clients {
    all: Vec<Client>,
    rejected: Rejected,
    /// When the last warning about rejected clients was given.
    warned_at: Option<Instant>,
}

impl Clients {
    fn serve(&mut self, newcomer: Newcomer, requests: mpsc::Sender<Asked>, serving: mpsc::Sender<()>) {
        let stage = if newcomer.has_asked() { Stage::Following } else { Stage::Asking };
        let at = SharedStage(Arc::new(AtomicU8::new(stage as u8)));
        let (theirs, rejected) = (at.clone(), self.rejected.clone());
        let task = tokio::spawn(async move {
            if let Err(why) = serve(newcomer, requests, &theirs).await {
                rejected.note(&why);
            }
            drop(serving);
        });
        self.all.push(Client { since: Instant::now(), at, task: task.abort_handle() });
    }

    /// Whether another client can be accepted. At the limit one is dropped, so that a client with a request is always served. A
    /// client that has just connected is given time to send its request.
    fn make_room(&mut self) -> bool {
        self.all.retain(|client| !client.task.is_finished());
        if self.all.len() < CLIENT_LIMIT {
            return true;
        }
        let oldest_asking = self.all.iter().find(|client| client.at.is(Stage::Asking));
        if oldest_asking.is_some_and(|client| client.since.elapsed() < GRACE) {
            return false;
        }
        self.drop_one();
        true
    }

    /// Drops the oldest client that has not sent its request, or else the oldest that does not read, or else the oldest.
    fn drop_one(&mut self) {
        let stages = [Stage::Asking, Stage::Stalled, Stage::Following];
        let oldest = stages.into_iter().find_map(|stage| self.all.iter().position(|client| client.at.is(stage)));
        if let Some(oldest) = oldest {
            self.all.remove(oldest).task.abort();
            self.rejected.note("too many clients");
        }
    }

    /// Warns of rejected clients, at most once a minute, so that a broken client does not fill the log.
    fn warn_of_rejected(&mut self) {
        if self.warned_at.is_some_and(|warned| warned.elapsed() < WARNING_INTERVAL) {
            return;
        }
        if let Some((number, last)) = self.rejected.take() {
            self.warned_at = Some(Instant::now());
            tracing::warn!(
                "{number} connections to the control socket were closed without an answer (the last: {last})"
            );
        }
    }
}

/// How many clients were rejected, and why the last one.
#[derive(Clone, Default)]
struct Rejected(Arc<Mutex<(u64, String)>>);

impl Rejected {
    fn note(&self, why: &str) {
        let mut rejected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rejected.0 += 1;
        why.clone_into(&mut rejected.1);
    }

    fn take(&self) -> Option<(u64, String)> {
        let rejected = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (rejected.0 > 0).then_some(rejected)
    }
}

/// Serves one client to the end of its request. The error says why it was rejected.
async fn serve(newcomer: Newcomer, requests: mpsc::Sender<Asked>, at: &SharedStage) -> Result<(), String> {
    let Newcomer { stream, sent: mut text } = newcomer;
    let (reader, mut writer) = stream.into_split();
    if !text.contains(&b'\n') {
        let mut reader = BufReader::new(reader.take((REQUEST_LIMIT - text.len()) as u64));
        match timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut text)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no request within {} s", REQUEST_TIMEOUT.as_secs())),
        }
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let request = serde_json::from_slice(line).map_err(|error| format!("{UNREADABLE}: {error}"))?;
    at.set(Stage::Following);
    // Subscribed before the request takes effect, so that no line is missed.
    let mut lines = log::follow();
    let (answers, mut answered) = mpsc::unbounded_channel();
    if requests.send(Asked { request, answers }).await.is_err() {
        return Ok(());
    }
    let mut following = false;
    loop {
        let answer = tokio::select! {
            // Lines that were logged before the end are sent before the end.
            biased;
            line = lines.recv(), if following => match line {
                Ok(line) => Answer::Line(Box::new(line)),
                Err(broadcast::error::RecvError::Lagged(lines)) => Answer::Line(Box::new(omitted(lines))),
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

/// The line for a client that reads too slowly.
fn omitted(lines: u64) -> Line {
    let message = format!("{lines} lines are omitted here; the service's log has them: journalctl -u node-agent");
    Line::note(Level::Warning, message)
}
