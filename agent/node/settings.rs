//! Where the configuration comes from: a file, or the instance's user data.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::aws::imds::Imds;
use crate::config::schema::timeouts;
use crate::config::{self, Config, Scope, Text, fault};
use crate::failure::{Class, Code, Failure};
use crate::host::atomic::Replacement;
use crate::host::read::{self, Pipes, Unreadable};

/// The configuration's default path.
pub const CONFIG: &str = config::embedded::PATH;
/// Overrides the configuration key by key, for repairs on the node.
pub const OVERRIDE: &str = "/etc/node-agent/override.toml";
/// Instead of a path: the instance's user data.
pub const IMDS: &str = "imds";

/// The user data of the last boot, in the state directory.
const KEPT: &str = "user-data.toml";

/// The texts of a configuration, not yet parsed.
#[derive(Clone, Debug)]
pub struct Texts {
    /// The configuration itself.
    pub main: Text,
    /// [`OVERRIDE`], where it exists.
    pub overrides: Option<Text>,
    /// Whether the configuration is the instance's user data.
    pub from_user_data: bool,
}

/// Reads and validates the configuration named by `--config`.
pub async fn load(from: &str, imds: &Imds, scope: Scope) -> Result<Config, Failure> {
    read(from, imds, timeouts::AWS.default_span()).await?.validate_in_thread(scope).await
}

/// Reads the texts of the configuration named by `--config`. `patience` bounds the wait for the metadata service.
pub async fn read(from: &str, imds: &Imds, patience: Duration) -> Result<Texts, Failure> {
    texts(from, user_data(imds, patience)).await
}

/// As [`read()`], but offline: instead of the user data, the copy that [`Texts::keep`] has stored in `state_dir`.
pub async fn read_kept(from: &str, state_dir: &Path) -> Result<Texts, Failure> {
    texts(from, file(&state_dir.join(KEPT), Pipes::Refused)).await
}

/// Reads one text without the override: a configuration that is meant for another machine.
pub async fn read_alone(from: &str) -> Result<Texts, Failure> {
    Ok(Texts { main: file(Path::new(from), Pipes::Allowed).await?, overrides: None, from_user_data: false })
}

/// The texts, with `user_data` as the configuration if `--config` says so or names a file that does.
async fn texts(from: &str, user_data: impl Future<Output = Result<Text, Failure>>) -> Result<Texts, Failure> {
    let named = if from == IMDS { None } else { Some(file(Path::new(from), Pipes::Allowed).await?) };
    let (main, from_user_data) = match named.filter(|text| !config::wants_user_data(&text.text)) {
        Some(text) => (text, false),
        None => (user_data.await?, true),
    };
    Ok(Texts { main, overrides: overrides().await?, from_user_data })
}

async fn overrides() -> Result<Option<Text>, Failure> {
    let path = Path::new(OVERRIDE);
    match read::text_async(path.to_owned(), Pipes::Refused).await {
        Ok(bytes) => text(path, bytes).map(Some),
        Err(why) if why.is_missing() => Ok(None),
        Err(why) => Err(unreadable(path, &why)),
    }
}

impl Texts {
    /// Stores user data in `state_dir` for a reboot without an answer from the metadata service. For root alone: user data may
    /// hold secrets.
    pub fn keep(&self, state_dir: &Path) {
        let path = state_dir.join(KEPT);
        let text = self.main.text.as_bytes();
        if !self.from_user_data || fs::read(&path).is_ok_and(|kept| kept == text) {
            return;
        }
        if let Err(error) = Replacement::new(&path).mode(0o600).write(text) {
            tracing::warn!("the user data is not stored for the next boot: {}: {error}", path.display());
        }
    }

    /// Validates the texts; one failure has all mistakes.
    pub fn validate(self, scope: Scope) -> Result<Config, Failure> {
        config::load(self.main, self.overrides, scope)
            .map_err(|mistakes| Failure::new(Code::ConfigInvalid, mistakes.to_string()))
    }

    /// As [`Texts::validate`], in a thread of its own: a name service may take seconds to answer, and heartbeats must continue.
    pub async fn validate_in_thread(self, scope: Scope) -> Result<Config, Failure> {
        let checked = spawn_blocking(move || self.validate(scope)).await;
        checked.unwrap_or_else(|panicked| Err(Failure::io("checking the configuration", io::Error::other(panicked))))
    }

    /// `[lifecycle]`, even if there are mistakes elsewhere.
    pub fn lifecycle(self) -> Option<config::Lifecycle> {
        config::lifecycle(self.main, self.overrides)
    }
}

async fn file(path: &Path, pipes: Pipes) -> Result<Text, Failure> {
    let bytes = read::text_async(path.to_owned(), pipes).await.map_err(|why| unreadable(path, &why))?;
    text(path, bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<Text, Failure> {
    let name = path.display().to_string();
    if let Some(fault) = fault::of_bytes(&bytes) {
        return Err(Failure::new(Code::ConfigUnreadable, format!("{name} {}, not TOML", fault.what))
            .remedy(format!("{}, then: node-agent retry", fault.instead)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { name, text }),
        Err(error) => Err(Failure::new(Code::ConfigUnreadable, format!("{name}: not UTF-8 text: {error}"))),
    }
}

fn unreadable(path: &Path, why: &Unreadable) -> Failure {
    let failure = Failure::new(Code::ConfigUnreadable, format!("{} {why}", path.display()));
    match why {
        Unreadable::TimedOut(_) => failure.remedy(
            "see what the file is on (findmnt -T FILE) and whether that answers (timeout 5 stat FILE), or put the \
             configuration on the root disk; then: node-agent retry",
        ),
        _ => failure,
    }
}

async fn user_data(imds: &Imds, patience: Duration) -> Result<Text, Failure> {
    let deadline = Instant::now() + patience;
    let bytes = loop {
        match imds.user_data().await {
            Ok(bytes) => break bytes,
            Err(failure) if failure.class() == Class::Outage && Instant::now() < deadline => {
                tracing::info!("wait: {failure}");
                sleep(Duration::from_secs(1)).await;
            }
            Err(failure) => return Err(failure),
        }
    };
    config::user_data::decode(bytes).map_err(|why| {
        Failure::new(Code::ConfigUnreadable, format!("the user data is not a configuration: {why}")).remedy(
            "give the instance the TOML as its user data, plain or gzip, or use --config PATH, then: node-agent retry",
        )
    })
}
