//! From the tree to the settings: one file a table, and the checks that several tables share.

mod account;
mod file;
mod hooks;
mod lifecycle;
mod node;
mod path;
mod source;
mod timeouts;
mod value;
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
    let unwritten = Fields::default();
    let unwritten = TableReader::open(report, &schema::lifecycle::TABLE, &unwritten);
    lifecycle::read_past_mistakes(&root.table(&schema::lifecycle::TABLE).ok()??, &unwritten)
}

/// Reads every table, wrong or right, before it gives the result.
pub(super) fn config(report: &Report, fields: &Fields, scope: Scope, digest: String) -> Result<Config, Reported> {
    let root = TableReader::open(report, &schema::root::TABLE, fields);
    // A file that points at the user data has no settings of its own, so that nothing is missing in it.
    let elsewhere = source(&root, fields.keys.len() == 1);

    let node = match root.table(&schema::node::TABLE) {
        Ok(Some(reader)) => node::read(&reader),
        Ok(None) if elsewhere.is_err() || root.may_have_table(&schema::node::TABLE) => Err(Reported(())),
        Ok(None) => Err(report.mistake(root.header(), "[node]: missing", write_table(&schema::node::TABLE))),
        Err(reported) => Err(reported),
    };
    let lifecycle_sheet = root.table(&schema::lifecycle::TABLE);
    let hooks_sheet = root.table(&schema::hooks::TABLE);
    if let (Ok(Some(lifecycle)), Ok(None)) = (&lifecycle_sheet, &hooks_sheet)
        && !root.may_have_table(&schema::hooks::TABLE)
    {
        let what = "[hooks]: missing, and [lifecycle] needs it to know when the node is ready";
        report.mistake(lifecycle.header(), what, "write [hooks] with script = \"/usr/local/lib/node/hooks.sh\"");
    }
    let lifecycle = lifecycle_sheet.and_then(|reader| reader.map(|reader| lifecycle::read(&reader)).transpose());
    let hooks = hooks_sheet.and_then(|reader| reader.map(|reader| hooks::read(&reader, scope)).transpose());
    // Without the table every default holds.
    let unwritten = Fields::default();
    let timeouts = root.table(&schema::timeouts::TABLE).and_then(|reader| {
        let reader = reader.unwrap_or_else(|| TableReader::open(report, &schema::timeouts::TABLE, &unwritten));
        timeouts::read(&reader)
    });

    let volume_sheets = root.each(&schema::volume::TABLE);
    let volumes = all(volume_sheets.iter().map(|reader| volume::read(&(*reader)?, scope)));
    let file_sheets = root.each(&schema::file::TABLE);
    let files = all(file_sheets.iter().map(|reader| file::read(&(*reader)?, scope)));
    volume::check_distinct(volume_sheets.iter().flatten());
    file::check_distinct(file_sheets.iter().flatten(), volume_sheets.iter().flatten());

    elsewhere?;
    Ok(Config {
        node: node?,
        lifecycle: lifecycle?,
        volumes: volumes?,
        files: files?,
        hooks: hooks?,
        timeouts: timeouts?,
        digest,
        origin: String::new(),
        warnings: Vec::new(),
    })
}

/// `source`, which must not be there any more once a text is read for its settings.
fn source(root: &TableReader<'_>, alone: bool) -> Result<(), Reported> {
    let key = &schema::root::SOURCE;
    if !root.has(key) {
        return Ok(());
    }
    root.choice(key, &[(IMDS, ())])?;
    let location = root.location(key);
    Err(if alone {
        location.mistake("points at the user data, and no settings are here", "write the settings instead")
    } else {
        location.mistake(
            "points at the user data, beside settings of its own",
            "remove it to use the settings here, or leave only source = \"imds\"",
        )
    })
}

/// How to begin a missing table: its header and the keys that it needs.
fn write_table(table: &schema::Table) -> String {
    debug_assert_eq!(table.shape, Shape::Required);
    let keys = table.keys.iter().filter(|key| key.presence == Presence::Required);
    let keys: Vec<String> = keys.map(|key| format!("{} = {}", key.name, key.example)).collect();
    format!("write {} with {}", table.header(), keys.join(" and "))
}
