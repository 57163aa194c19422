//! The README says what the code says.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fmt::Write;

use node_agent::config::schema::{self, Key, Kind, Literal, Presence, Shape, Table};

const README: &str = include_str!("../README.md");
const DEMO_CONFIG: &str = include_str!("ec2-sim/src/bin/demo/config.toml");

#[test]
fn the_readme_tables_every_key() {
    let tables: String = std::iter::once(&schema::root::TABLE).chain(schema::TABLES).map(table).collect();
    let shown = README.split_once("<!-- keys -->\n").and_then(|(_, rest)| rest.split_once("<!-- end of keys -->"));
    let shown = shown.map(|(shown, _)| shown.trim()).unwrap_or_default();
    assert!(shown == tables.trim(), "write this into the README, between its comments:\n\n{}\n", tables.trim());
}

#[test]
fn the_configuration_in_the_readme_is_the_one_the_demo_runs() {
    assert!(README.contains(&format!("```toml\n{DEMO_CONFIG}```\n")), "the README's configuration is not the demo's");
}

fn table(table: &Table) -> String {
    let mut text = match table.shape {
        Shape::Root => "The top level".to_owned(),
        Shape::Required => format!("`{}`, required", table.header()),
        Shape::Optional => format!("`{}`, may be left out", table.header()),
        Shape::Each { by } => format!("`{}`, any number, told apart by `{by}`", table.header()),
    };
    if !matches!(table.shape, Shape::Root) {
        let _ = write!(text, ": {}", lower_first(table.doc().trim_end_matches('.')));
    }
    text.push('.');
    if !table.one_of.is_empty() {
        let names: Vec<_> = table.one_of.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(text, " Exactly one of {}", names.join(", "));
        if let Some([a, b]) = table.pair {
            let _ = write!(text, "; only `{a}` and `{b}` may stand together");
        }
        text.push('.');
    }
    text.push_str("\n\n| key | value | without it | used by | |\n|---|---|---|---|---|\n");
    for key in table.keys {
        let without = match key.presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional if table.one_of.contains(&key.name) => "see above".to_owned(),
            Presence::Optional => "none".to_owned(),
            Presence::Default(Literal::Text(text)) => format!("`\"{text}\"`"),
            Presence::Default(Literal::Flag(flag)) => format!("`{flag}`"),
            Presence::Default(Literal::EmptyList) => "`[]`".to_owned(),
        };
        let _ = writeln!(text, "| `{}` | {} | {without} | {} | {} |", key.name, value(key), key.step, key.doc());
    }
    text.push('\n');
    text
}

fn value(key: &Key) -> String {
    match key.kind {
        Kind::Text | Kind::Secret | Kind::VolumeId | Kind::DeviceName | Kind::Function => "text".to_owned(),
        Kind::Duration => "time span".to_owned(),
        Kind::Flag => "`true`, `false`".to_owned(),
        Kind::FlagOr(words) => format!("`true`, `false`, {}", quoted(words)),
        Kind::Choice(words) => quoted(words),
        Kind::List => "list of texts".to_owned(),
        Kind::Account => "name or number".to_owned(),
        Kind::Mode => "octal digits".to_owned(),
        Kind::Sha256 => "64 hex digits".to_owned(),
        Kind::Path => "absolute path".to_owned(),
        Kind::Ip => "IP address".to_owned(),
        Kind::Url => "URL".to_owned(),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
