//! The documents say what the code says, and name only what is there.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use node_agent::config::schema::{self, Key, Kind, Literal, Presence, Shape, Table};
use regex_lite::Regex;

const CONFIGURATION: &str = include_str!("../docs/configuration.md");
const DEMO_CONFIG: &str = include_str!("ec2-sim/src/bin/demo/config.toml");

#[test]
fn the_configuration_page_tables_every_key() {
    let tables: String = std::iter::once(&schema::root::TABLE).chain(schema::TABLES).map(table).collect();
    let shown =
        CONFIGURATION.split_once("<!-- keys -->\n").and_then(|(_, rest)| rest.split_once("<!-- end of keys -->"));
    let shown = shown.map(|(shown, _)| shown.trim()).unwrap_or_default();
    let tables = tables.trim();
    assert!(shown == tables, "write this into docs/configuration.md, between its comments:\n\n{tables}\n");
}

#[test]
fn the_configuration_in_the_documents_is_the_one_the_demo_runs() {
    assert!(CONFIGURATION.contains(&format!("```toml\n{DEMO_CONFIG}```\n")), "docs/configuration.md: not the demo's");
}

#[test]
fn the_documents_name_only_files_that_exist() {
    let named = Regex::new(r"`((?:agent|docs|fuzz|packaging|systemd|tests)/[\w./-]*)`").unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut wrong = Vec::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        let mut amiss = |said: &str| wrong.push(format!("{}: {said}", page.display()));
        // `tests/NAME.rs` stands for any.
        let is_named = |path: &str| !["NAME", "TABLE", "TARGET"].iter().any(|any| path.contains(any));
        let files = named.captures_iter(&text).filter(|found| is_named(&found[1]));
        for found in files.filter(|found| !root().join(&found[1]).exists()) {
            amiss(&found[0]);
        }
        for found in link.captures_iter(&text).filter(|found| !found[1].contains("://")) {
            let (path, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            if !target.exists() || !(anchor.is_empty() || anchors(&target).contains(anchor)) {
                amiss(&found[0]);
            }
        }
    }
    // Comments cite a page, and behind a comma one of its headings, in quotes.
    let cited = Regex::new("(docs/[\\w-]+\\.(?:md|svg))(?:, \"([^\"]+)\")?").unwrap();
    for source in sources() {
        let text = fs::read_to_string(&source).unwrap();
        let is_there = |page: &Path, heading: &str| page.exists() && anchors(page).contains(&anchor(heading));
        let gone = cited.captures_iter(&text).filter(|found| {
            let page = root().join(&found[1]);
            found.get(2).map_or(!page.exists(), |heading| !is_there(&page, heading.as_str()))
        });
        wrong.extend(gone.map(|found| format!("{}: {}", source.display(), &found[0])));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_walks_name_only_functions_that_exist() {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let stop = Regex::new(r"(?m)^\d+\. `(agent/[^`]+)`, ((?:`\w+`(?:, )?)+):").unwrap();
    let mut stops = 0;
    for found in stop.captures_iter(&design) {
        stops += 1;
        let text = fs::read_to_string(root().join(&found[1])).unwrap_or_default();
        for name in found[2].split(", ").map(|name| name.trim_matches('`')) {
            let is_there = Regex::new(&format!(r"\bfn {name}\b")).unwrap().is_match(&text);
            assert!(is_there, "docs/design.md: there is no function {name} in {}", &found[1]);
        }
    }
    let walks = design.split_once("\n## Three walks\n").unwrap().1;
    let numbered = Regex::new(r"(?m)^\d+\. ").unwrap().find_iter(walks).count();
    assert_eq!(stops, numbered, "a stop of a walk is a file, its functions, a colon");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that people read; a page of failures is made of the sources, and a changelog tells of files that are gone.
fn pages() -> Vec<PathBuf> {
    let of = |dir: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join(dir)).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "md"))
            .collect()
    };
    let mut pages = [
        of(""),
        of("docs"),
        of("docs/clusters"),
        of("packaging"),
        of("packaging/ami"),
        of("packaging/terraform"),
        of("tests/ec2-sim"),
    ]
    .concat();
    pages.retain(|page| !["CHANGELOG.md", "failures.md"].iter().any(|name| page.ends_with(name)));
    assert!(pages.len() > 6, "{pages:?}");
    pages
}

/// All Rust files of the agent and the tests.
fn sources() -> Vec<PathBuf> {
    let mut folders = vec![root().join("agent"), root().join("tests")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push(path);
            }
        }
    }
    sources
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// What a page's headings can be linked by.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(&fs::read_to_string(page).unwrap());
    text.lines().filter_map(|line| line.split_once("# ")).map(|(_, heading)| anchor(heading)).collect()
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
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
        Kind::List | Kind::Names => "list of texts".to_owned(),
        Kind::Tag => "`KEY=VALUE`".to_owned(),
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
