//! The man pages in `packaging/man/` are generated from the command line.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use node_agent::cli::Cli;

const PAGES: &str = "packaging/man";

/// The pages in a directory, by file name.
fn pages(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap())).collect()
}

#[test]
fn the_man_pages_are_what_the_command_line_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGES);
    let made = tempfile::tempdir().unwrap();
    // `help` is no command of its own, and would be a page for each command once more.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), made.path()).unwrap();
    let made = pages(made.path());
    if std::env::var_os("UPDATE_MAN").is_some() {
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        for (name, text) in &made {
            fs::write(dir.join(name), text).unwrap();
        }
    }
    let written = pages(&dir);
    let differs: Vec<_> =
        made.keys().chain(written.keys()).filter(|name| made.get(*name) != written.get(*name)).collect();
    assert!(
        differs.is_empty(),
        "{PAGES} is not what the command line says: {differs:?}\n\
         write it anew with: UPDATE_MAN=1 cargo nextest run --workspace -E 'binary(man)'"
    );
    assert!(!made.keys().any(|name| name.contains("read-blank")), "a page for a hidden command");
}
