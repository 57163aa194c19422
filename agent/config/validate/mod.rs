//! Validates the tree into settings: a file for each table, and the shared checks.

mod account;
mod cluster;
mod file;
mod hooks;
mod lifecycle;
mod node;
mod path;
mod source;
mod timeouts;
pub(super) mod value;
mod volume;

use super::model::{Config, Lifecycle};
use super::reader::{TableReader, all};
use super::report::{Report, Reported};
use super::schema::{self, Presence, Shape};
use super::tree::Fields;
use super::{IMDS, Scope};

/// `[lifecycle]`, whatever is wrong elsewhere.
pub(super) fn lifecycle_alone(report: &Report, fields: &Fields) -> Option<Lifecycle> {
    let root = TableReader::open(report, &schema::root::TABLE, fields);
    lifecycle::read_past_mistakes(&root.table(&schema::lifecycle::TABLE).ok()??)
}

/// Reads every table, so that all mistakes are reported, before it returns the first error.
pub(super) fn config(report: &Report, fields: &Fields, scope: Scope, digest: String) -> Result<Config, Reported> {
    let root = TableReader::open(report, &schema::root::TABLE, fields);
    // A file that points to the user data has no settings of its own, so none are missing.
    let elsewhere = source(&root, fields.keys.len() == 1);

    let node = match root.table(&schema::node::TABLE) {
        Ok(Some(reader)) => node::read(&reader),
        Ok(None) if elsewhere.is_err() || root.may_have_table(&schema::node::TABLE) => Err(Reported(())),
        Ok(None) => Err(report.mistake(root.header(), "[node]: missing", write_table(&schema::node::TABLE))),
        Err(reported) => Err(reported),
    };
    let lifecycle = root.table(&schema::lifecycle::TABLE);
    let hooks = root.table(&schema::hooks::TABLE);
    if let (Ok(Some(lifecycle)), Ok(None)) = (&lifecycle, &hooks)
        && !root.may_have_table(&schema::hooks::TABLE)
    {
        let what = "[hooks]: missing, and [lifecycle] needs it to know when the node is ready";
        report.mistake(lifecycle.header(), what, "write [hooks] with script = \"/usr/local/lib/node/hooks.sh\"");
    }
    let cluster = root.table(&schema::cluster::TABLE);
    let cluster = cluster.and_then(|reader| reader.map(|reader| cluster::read(&reader)).transpose());
    let lifecycle = lifecycle.and_then(|reader| reader.map(|reader| lifecycle::read(&reader)).transpose());
    let hooks = hooks.and_then(|reader| reader.map(|reader| hooks::read(&reader, scope)).transpose());
    let unwritten = Fields::default();
    let timeouts = root.table(&schema::timeouts::TABLE).and_then(|reader| {
        let reader = reader.unwrap_or_else(|| TableReader::open(report, &schema::timeouts::TABLE, &unwritten));
        timeouts::read(&reader)
    });

    let volume_readers = root.each(&schema::volume::TABLE);
    let volumes = all(volume_readers.iter().map(|reader| volume::read(&(*reader)?, scope)));
    let file_readers = root.each(&schema::file::TABLE);
    let files = all(file_readers.iter().map(|reader| file::read(&(*reader)?, scope)));
    let mounts = volume::check_distinct(volume_readers.iter().flatten());
    file::check_distinct(file_readers.iter().flatten(), &mounts);

    elsewhere?;
    Ok(Config {
        node: node?,
        lifecycle: lifecycle?,
        cluster: cluster?,
        volumes: volumes?,
        files: files?,
        hooks: hooks?,
        timeouts: timeouts?,
        digest,
        origin: String::new(),
        warnings: Vec::new(),
    })
}

/// Refuses `source`: a text that is read for its settings must not have it.
fn source(root: &TableReader<'_>, alone: bool) -> Result<(), Reported> {
    let key = &schema::root::SOURCE;
    if !root.has(key) {
        return Ok(());
    }
    root.choice(key, &[(IMDS, ())])?;
    let location = root.location(key);
    Err(if alone {
        location.mistake("points to the user data, and there are no settings here", "write the settings instead")
    } else {
        location.mistake(
            "points to the user data, but there are settings here, too",
            "remove it to use the settings here, or leave only source = \"imds\"",
        )
    })
}

/// The remedy for a missing table: its header and its required keys.
fn write_table(table: &schema::Table) -> String {
    debug_assert_eq!(table.shape, Shape::Required);
    let keys = table.keys.iter().filter(|key| key.presence == Presence::Required);
    let keys: Vec<String> = keys.map(|key| format!("{} = {}", key.name, key.example)).collect();
    format!("write {} with {}", table.header(), keys.join(" and "))
}
