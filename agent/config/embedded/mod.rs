//! Finds this agent's configuration in the user data of a launch template: as the TOML itself, or where packaging's cloud-config
//! and packaging's shell write it to the node's disk.
//!
//! What is not read with certainty is [`Embedded::Unclear`], never a text that the node would not see.

mod cloud_config;
mod shell;
mod yaml;

use toml::de::DeTable;

use super::fault;
use super::schema;
use super::user_data::{self, BadUserData};

/// Where the node's configuration lies on its disk.
pub const PATH: &str = "/etc/node-agent/config.toml";

/// What user data says about this agent's configuration.
#[derive(Clone, PartialEq, Eq)]
pub enum Embedded {
    /// It holds the configuration.
    Config {
        /// The TOML; it may have mistakes. One that says only `source = "imds"` points at the user data that it was found in.
        text: String,
        /// The user data without that text; empty where it is nothing else.
        around: String,
    },
    /// It holds none, or is empty.
    None,
    /// It may hold one, which cannot be read with certainty. The text says why, as the end of a sentence that begins with
    /// "the user data".
    Unclear(String),
}

/// Without the texts, which may hold secrets: debug output ends up in logs.
impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Embedded::Config { text, around } => write!(f, "Config({} bytes, {} around)", text.len(), around.len()),
            Embedded::None => f.write_str("None"),
            Embedded::Unclear(why) => write!(f, "Unclear({why})"),
        }
    }
}

/// Finds the configuration in user data as a launch template has it, decoded from base64. Gzip is unpacked.
pub fn find(user_data: &[u8]) -> Embedded {
    match user_data::decode(user_data.to_vec()) {
        Ok(text) => find_in(&text.text),
        // Some program or archive.
        Err(BadUserData::NoText(_)) => Embedded::None,
        Err(BadUserData::Known(fault)) => Embedded::Unclear(fault.what),
        Err(BadUserData::BrokenGzip(why)) => Embedded::Unclear(format!("is broken gzip: {why}")),
        Err(BadUserData::PackedTwice) => Embedded::Unclear("is packed by gzip twice".to_owned()),
        Err(BadUserData::TooLarge) => {
            Embedded::Unclear(format!("unpacks to more than {} bytes", user_data::UNPACKED_LIMIT))
        }
    }
}

fn find_in(text: &str) -> Embedded {
    let first = text.lines().next().unwrap_or_default().trim_end();
    if DeTable::parse(text).is_ok_and(|root| has_known_table(root.get_ref())) {
        return whole(text);
    }
    if first == "#cloud-config" {
        return cloud_config::find(text);
    }
    if first.starts_with("#!") {
        return shell::find(text);
    }
    if let Some(fault) = fault::of_config(text, true) {
        return Embedded::Unclear(fault.what);
    }
    let is_like_ours = has_known_table(DeTable::parse_recoverable(text).0.get_ref());
    if is_like_ours && begins_as_toml(text) && !names_the_file(text) {
        return whole(text);
    }
    let why = "is neither TOML nor another form that is read";
    if is_like_ours { Embedded::Unclear(why.to_owned()) } else { not_found(text, why) }
}

fn whole(text: &str) -> Embedded {
    Embedded::Config { text: text.to_owned(), around: String::new() }
}

/// Whether any of the configuration's tables is written, or the key beside them.
fn has_known_table(root: &DeTable<'_>) -> bool {
    root.iter().any(|(key, value)| match key.get_ref().as_ref() {
        "source" => value.get_ref().as_str() == Some(super::IMDS),
        name => schema::table(name).is_some() && (value.get_ref().is_table() || value.get_ref().is_array()),
    })
}

/// Whether the first line that is no comment is one of TOML. In a script or a template, tables may stand further below.
fn begins_as_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let of_a_key = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
    lines.next().is_some_and(|line| {
        line.starts_with('[') || line.split_once('=').is_some_and(|(key, _)| key.chars().all(of_a_key))
    })
}

fn names_the_file(text: &str) -> bool {
    text.contains("node-agent") && text.contains("config.toml")
}

/// The answer where no configuration was found: `why`, if the text names the file all the same.
fn not_found(text: &str, why: impl Into<String>) -> Embedded {
    if names_the_file(text) { Embedded::Unclear(why.into()) } else { Embedded::None }
}

/// The answer where `text` was found, unless what is around names the file a second time: it may change the file.
fn found(text: String, around: String) -> Embedded {
    let changes_nothing = |line: &str| {
        let line = line.trim_start().trim_start_matches(['-', '[', ' ']);
        let is_one_command = !line.contains([';', '&', '|', '`', '$']);
        line.starts_with('#') || is_one_command && (line.starts_with("chmod") || line.starts_with("chown"))
    };
    let named = around.lines().filter(|line| line.contains("config.toml") && !changes_nothing(line)).count();
    if named == 1 {
        Embedded::Config { text, around }
    } else {
        Embedded::Unclear(format!("names {PATH} in {named} places, and may change it after it was written"))
    }
}

#[cfg(test)]
mod tests;
