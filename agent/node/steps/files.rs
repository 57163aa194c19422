//! `files`: the node's files are in place.

use std::io::{self, Seek};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::aws::download::Fetched;
use crate::config::{self, Sha256Digest};
use crate::failure::{Failure, Named};
use crate::host::accounts;
use crate::host::atomic::{Replacement, remove_leftovers_in};
use crate::host::path::{Folder, Missing};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// Generous for local writes: every step needs a deadline.
const DEADLINE: Duration = Duration::from_mins(10);

/// Writes all files, each atomically.
pub struct WriteFiles<'a> {
    /// Records the contents with which this step was completed.
    pub(crate) journal: &'a Journal,
    pub(crate) files: &'a [config::File],
    /// Their contents, in the same order.
    pub(crate) contents: &'a [Fetched],
}

impl Step for WriteFiles<'_> {
    /// The digest of all files, for the steps that depend on them.
    type Output = String;

    fn header(&self) -> Header<'_> {
        Header { keeps_own_deadline: true, ..Header::of(StepName::Files, DEADLINE) }
    }

    async fn observe(&self) -> Result<Observed<String>, Failure> {
        let inputs = self.inputs();
        if self.journal.once_done(StepName::Files, &inputs) {
            return Ok(Observed::Done(inputs));
        }
        Ok(Observed::Todo(match self.files.len() {
            0 => "no files are configured".to_owned(),
            count => format!("files to write: {count}"),
        }))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        // Accounts are looked up first, so that an unknown one leaves every file unchanged.
        let accounts: Vec<_> = self.files.iter().map(|file| (file.owner.clone(), file.group.clone())).collect();
        // A name service may take seconds to answer.
        let owners = tokio::task::spawn_blocking(move || {
            let ids = accounts.iter().map(|(user, group)| Ok((accounts::user(user)?, accounts::group(group)?)));
            ids.collect::<Result<Vec<_>, Failure>>()
        });
        let owners = owners
            .await
            .unwrap_or_else(|panicked| Err(Failure::io("looking up the owners", io::Error::other(panicked))))?;
        for ((file, fetched), (user, group)) in self.files.iter().zip(self.contents).zip(owners) {
            let what = || format!("writing {}", file.destination.display());
            let (Some(dir), Some(name)) = (file.destination.parent(), file.destination.file_name()) else {
                return Err(Failure::io(what(), io::Error::other("a path without a directory")));
            };
            let folder = Folder::reach(dir, Missing::Make)?;
            remove_leftovers_in(&folder).named(what())?;
            let mut contents = fetched.file.try_clone().named(what())?;
            contents.rewind().named(what())?;
            Replacement::within(&folder, name)
                .mode(file.mode)
                .owner(user, group)
                .write_from(&mut contents)
                .named(what())?;
            tracing::info!(
                step = "files",
                "{} ({} bytes, mode {:04o})",
                file.destination.display(),
                fetched.size,
                file.mode
            );
        }
        self.journal.record_once(StepName::Files, &self.inputs())?;
        Ok(Acted::Changed)
    }
}

impl WriteFiles<'_> {
    fn inputs(&self) -> String {
        let mut digest = Sha256::new();
        for (file, fetched) in self.files.iter().zip(self.contents) {
            let line = format!(
                "{}\0{}\0{:o}\0{}\0{}\n",
                file.destination.display(),
                fetched.sha256,
                file.mode,
                file.owner,
                file.group
            );
            digest.update(line.as_bytes());
        }
        Sha256Digest(digest.finalize().into()).to_string()
    }
}
