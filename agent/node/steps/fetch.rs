//! `files`, first part: the node's files and the hook script are fetched and verified before anything is written.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::download::{Fetched, Sources, unreadable};
use crate::config::script::{Definition, defines};
use crate::config::{self, Config, Contents, Hooks, Script, Sha256Digest, fault};
use crate::failure::{Class, Code, Failure, Named};
use crate::host::atomic::Replacement;
use crate::host::read::{self, Pipes};
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;

/// How long a new role or policy may take to have effect before the embedded script is used instead of the one at its source.
const FALL_BACK_AFTER: Duration = Duration::from_secs(30);

/// The key of a script that is embedded in the configuration.
const EMBEDDED: &str = "hooks.script_base64";
/// The key of a script that is fetched.
const REMOTE: &str = "hooks.script_source";
/// The key of a script that is a file of this machine.
const LOCAL: &str = "hooks.script";

/// The copy of a script that is not a file of this machine, in the state directory: by it the node is drained, whatever has become
/// of its source.
const KEPT: &str = "hooks.sh";

/// Fetches everything.
pub struct Fetch<'a> {
    step: StepName,
    sources: &'a Sources,
    files: &'a [config::File],
    hooks: Option<&'a Hooks>,
    /// A private directory on disk.
    scratch: &'a Path,
    deadline: Duration,
    /// When the step began, for the fallback.
    began: Instant,
    /// What was fetched so far: after a failure only the rest is fetched.
    fetched_so_far: RefCell<Staged>,
}

/// Everything that the once-per-instance steps need.
#[derive(Default)]
pub struct Staged {
    /// In the order of the configuration.
    pub(crate) files: Vec<Fetched>,
    /// The hook script, if hooks are configured.
    pub(crate) script: Option<StagedScript>,
}

/// The hook script, ready to be sourced.
#[derive(Clone, Debug)]
pub struct StagedScript {
    pub(crate) path: PathBuf,
    /// Its origin as the configuration names it: a path, a URL, or the key that embeds it.
    pub(crate) name: String,
    pub(crate) key: &'static str,
    /// The digest of its contents.
    pub sha256: Sha256Digest,
}

impl<'a> Fetch<'a> {
    /// Fetches the files and the script of this configuration into `scratch`.
    pub fn new(sources: &'a Sources, config: &'a Config, scratch: &'a Path) -> Self {
        Fetch {
            step: StepName::Files,
            sources,
            files: &config.files,
            hooks: config.hooks.as_ref(),
            scratch,
            deadline: config.timeouts.downloads,
            began: Instant::now(),
            fetched_so_far: RefCell::default(),
        }
    }

    /// Fetches the script alone, for `drain`.
    pub fn script_alone(sources: &'a Sources, config: &'a Config, scratch: &'a Path, deadline: Duration) -> Self {
        Fetch { step: StepName::Drain, files: &[], deadline, ..Fetch::new(sources, config, scratch) }
    }
}

impl StagedScript {
    /// Keeps a copy in the state directory, unless the script is a file of this machine. Without it the script is fetched anew.
    pub fn keep(&self, state_dir: &Path) {
        if self.key == LOCAL {
            return;
        }
        let kept = state_dir.join(KEPT);
        let copied = fs::read(&self.path).and_then(|contents| Replacement::new(&kept).mode(0o600).write(&contents));
        if let Err(error) = copied {
            tracing::warn!("the hook script is not kept for the node's departure: {}: {error}", kept.display());
        }
    }

    /// The configured script as it is on this machine: a file, or the copy that was kept of another one.
    pub async fn at_hand(script: &Script, state_dir: &Path) -> Option<Self> {
        let (path, name, key) = match script {
            Script::Path(path) => (path.clone(), path.display().to_string(), LOCAL),
            Script::Inline(_) => (state_dir.join(KEPT), EMBEDDED.to_owned(), EMBEDDED),
            Script::Remote { source, .. } => (state_dir.join(KEPT), source.to_string(), REMOTE),
        };
        let contents = read::text_async(path.clone(), Pipes::Refused).await.ok()?;
        Some(StagedScript { path, name, key, sha256: Sha256Digest::of(&contents) })
    }

    /// Whether it defines a function, as far as reading it shows.
    pub fn may_define(&self, function: &str) -> bool {
        fs::read(&self.path).is_ok_and(|contents| defines(&contents, function) != Definition::No)
    }
}

impl Step for Fetch<'_> {
    type Output = Staged;

    fn header(&self) -> Header<'_> {
        // The extra time exceeds the longest pause between two attempts, so that the fallback is used before the deadline.
        Header {
            outlasts: &[Class::Outage],
            observes_only: true,
            prepares: Some("fetched"),
            ..Header::of(self.step, self.deadline + Duration::from_secs(30))
        }
    }

    /// Fetching is an observation: it changes nothing but the private directory.
    async fn observe(&self) -> Result<Observed<Staged>, Failure> {
        let have = self.fetched_so_far.borrow().files.len();
        for file in &self.files[have..] {
            let fetched = self.file(file).await?;
            self.fetched_so_far.borrow_mut().files.push(fetched);
        }
        if let Some(hooks) = self.hooks
            && self.fetched_so_far.borrow().script.is_none()
        {
            let script = self.script(hooks).await?;
            self.fetched_so_far.borrow_mut().script = Some(script);
        }
        if self.step == StepName::Files {
            tracing::info!(step = "files", kind = "wait", "fetched; to be written once the volumes are mounted");
        }
        Ok(Observed::Done(self.fetched_so_far.take()))
    }
}

impl Fetch<'_> {
    async fn file(&self, file: &config::File) -> Result<Fetched, Failure> {
        match &file.contents {
            Contents::Inline(contents) => Fetched::inline(contents, self.scratch),
            Contents::Source(source) => {
                let fetched = self.sources.fetch(source, self.scratch, self.deadline).await?;
                must_match_digest(&source.to_string(), &fetched, file.sha256.as_ref())?;
                Ok(fetched)
            }
        }
    }

    async fn script(&self, hooks: &Hooks) -> Result<StagedScript, Failure> {
        let (name, key, contents) = match &hooks.script {
            Script::Path(path) => {
                let contents = read::text_async(path.clone(), Pipes::Refused).await;
                let contents =
                    contents.map_err(|why| unreadable(&format!("the hook script {}", path.display()), &why))?;
                let (name, sha256) = (path.display().to_string(), Sha256Digest::of(&contents));
                must_define_functions(&name, &contents, hooks)?;
                return Ok(StagedScript { path: path.clone(), name, key: LOCAL, sha256 });
            }
            Script::Inline(contents) => (EMBEDDED.to_owned(), EMBEDDED, contents.clone()),
            Script::Remote { source, fallback } => {
                match (self.remote(&source.to_string(), source, hooks).await, fallback) {
                    (Ok(contents), _) => (source.to_string(), REMOTE, contents),
                    (Err(failure), Some(fallback)) if self.falls_back(&failure) => {
                        tracing::warn!("{failure}; falling back to {EMBEDDED}");
                        (EMBEDDED.to_owned(), EMBEDDED, fallback.clone())
                    }
                    (Err(failure), _) => return Err(failure),
                }
            }
        };
        must_define_functions(&name, &contents, hooks)?;
        let path = self.scratch.join("hooks.sh");
        Replacement::new(&path).mode(0o600).write(&contents).named(format_args!("writing {}", path.display()))?;
        Ok(StagedScript { path, name, key, sha256: Sha256Digest::of(&contents) })
    }

    async fn remote(&self, name: &str, source: &config::Source, hooks: &Hooks) -> Result<Vec<u8>, Failure> {
        let mut fetched = self.sources.fetch(source, self.scratch, self.deadline).await?;
        if fetched.size == 0 {
            return Err(Failure::new(Code::DownloadFailed, format!("{name} is empty")));
        }
        if fetched.size > read::TEXT_LIMIT {
            let text = format!("{name} is larger than {} MiB, too large for a script", read::TEXT_LIMIT >> 20);
            return Err(Failure::new(Code::DownloadTooLarge, text));
        }
        must_match_digest(name, &fetched, hooks.sha256.as_ref())?;
        let mut contents = Vec::new();
        fetched.file.read_to_end(&mut contents).named(format_args!("reading {name}"))?;
        Ok(contents)
    }

    /// Whether the embedded script is used: only if the one at its source cannot be fetched or is empty. Not on a checksum
    /// mismatch, which may mean tampering, nor if only the bucket is unreachable: the embedded script may be older.
    fn falls_back(&self, failure: &Failure) -> bool {
        match failure.class() {
            _ if failure.code == Code::DownloadFailed => true,
            _ if failure.code == Code::BucketUnreachable => false,
            Class::Settling => self.began.elapsed() >= FALL_BACK_AFTER.min(self.deadline),
            Class::Outage => self.began.elapsed() >= self.deadline,
            _ => false,
        }
    }
}

fn must_match_digest(name: &str, fetched: &Fetched, wanted: Option<&Sha256Digest>) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if *wanted != fetched.sha256 => Err(Failure::new(
            Code::ChecksumMismatch,
            format!("{name} has the SHA-256 {}, configured is {wanted}", fetched.sha256),
        )),
        _ => Ok(()),
    }
}

/// Fails if the script lacks one of the two functions. The script is only read, never run.
fn must_define_functions(name: &str, contents: &[u8], hooks: &Hooks) -> Result<(), Failure> {
    let file = if name.starts_with('/') && !name.contains(char::is_whitespace) { name } else { "FILE" };
    if let Some(fault) = fault::of_script(contents, &[&hooks.configure, &hooks.health_check], file) {
        return Err(Failure::new(Code::HookUnusable, format!("{name} {}", fault.what))
            .remedy(format!("{}, then: node-agent retry", fault.instead)));
    }
    for function in [&hooks.configure, &hooks.health_check] {
        match defines(contents, function) {
            Definition::Yes => {}
            Definition::Unsure => {
                tracing::warn!("{name} does not visibly define {function}; it may come from what the script sources");
            }
            Definition::No => {
                return Err(Failure::new(Code::HookMissing, format!("{name} does not define the function {function}"))
                    .remedy(format!("add `{function}() {{ … }}` to the script, or correct the name in [hooks], then: node-agent retry")));
            }
        }
    }
    Ok(())
}

/// Prepares an empty private directory for fetched contents: a killed agent may have left files in it.
pub fn prepare_scratch(dir: &Path) -> Result<(), Failure> {
    let what = || format!("preparing {}", dir.display());
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io(what(), error)),
        _ => {}
    }
    crate::state::store::private_dir(dir).named(what())?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).named(what())
}
