//! The configuration as an entry of a cloud-config's `write_files`.

use std::ops::Range;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::yaml::{self, Node};
use super::{Embedded, PATH, found, not_found};
use crate::config::user_data;

/// The keys of an entry that do not change what is written.
const HARMLESS: [&str; 6] = ["path", "content", "encoding", "owner", "permissions", "defer"];

pub(super) fn find(text: &str) -> Embedded {
    let root = match yaml::read(text) {
        Ok(root) => root,
        Err(unread) => return not_found(text, format!("is a cloud-config with {unread}")),
    };
    let entries = match root.get("write_files") {
        Some(Node::List(entries)) => entries.as_slice(),
        Some(_) => return not_found(text, "is a cloud-config whose write_files is no list in block style"),
        None => &[],
    };
    let mut ours = Vec::new();
    for entry in entries {
        match entry.get("path") {
            Some(Node::Text(path, _)) if path == PATH => ours.push(entry),
            Some(Node::Text(..)) => {}
            _ => return not_found(text, "is a cloud-config with an entry of write_files whose path is not read"),
        }
    }
    match ours.as_slice() {
        [] => not_found(text, format!("is a cloud-config that names {PATH}, but not in write_files")),
        [entry] => match content(entry) {
            Ok((config, span)) => found(config, [&text[..span.start], &text[span.end..]].concat()),
            Err(why) => Embedded::Unclear(format!("is a cloud-config whose entry for {PATH} {why}")),
        },
        _ => Embedded::Unclear(format!("is a cloud-config with several entries for {PATH}")),
    }
}

/// What cloud-init writes for an entry, and where it stands in the text.
fn content(entry: &Node) -> Result<(String, Range<usize>), String> {
    let Node::Table(keys) = entry else { return Err("is no table".to_owned()) };
    if let Some((key, _)) = keys.iter().find(|(key, _)| !HARMLESS.contains(&key.as_str())) {
        return Err(format!("has {key}"));
    }
    let Some(Node::Text(content, span)) = entry.get("content") else {
        return Err("has no content that is one block or one line".to_owned());
    };
    let encoding = match entry.get("encoding") {
        None => "text/plain",
        Some(Node::Text(encoding, _)) => encoding,
        Some(_) => return Err("has an encoding that is not read".to_owned()),
    };
    let decode = || {
        let bare: String = content.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        BASE64_STANDARD.decode(bare).map_err(|_| "is not base64".to_owned())
    };
    let bytes = match encoding.to_lowercase().as_str() {
        "text/plain" => return Ok((content.clone(), span.clone())),
        "b64" | "base64" => decode()?,
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => {
            user_data::unpack(&decode()?).map_err(|why| format!("cannot be unpacked: {why}"))?
        }
        _ => return Err("has an encoding that is not read".to_owned()),
    };
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    Ok((text, span.clone()))
}
