//! The sources of contents and scripts.

use std::path::Path;

use super::path::{self, Trailing};
use super::value::is_blank;
use crate::config::model::{Source, without_secrets};
use crate::config::report::{Location, Quoted, Reported};

/// An `s3://`, `https://` or `file:///` URL.
pub(super) fn source(text: &str, location: &Location<'_>) -> Result<Source, Reported> {
    // A presigned URL's query is a secret.
    let shown = without_secrets(text);
    let shown = Quoted(&shown);
    if text.is_empty() {
        return Err(location.write("is empty", location.key.example));
    }
    if text.contains(char::is_control) {
        return Err(location.mistake("holds a control character", "remove it"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let what = format_args!("{shown} is no URL");
        return Err(match text {
            path if Path::new(path).is_absolute() => location.write(what, format_args!("\"file://{path}\"")),
            _ => location.mistake(what, "write \"s3://bucket/key\", \"https://…\" or \"file:///…\""),
        });
    };
    match scheme {
        "s3" => s3(rest, location),
        "https" => https(text, rest, location),
        "file" => path::absolute(rest, Trailing::Refused, location).map(Source::File),
        "http" => {
            let secure = without_secrets(&format!("https://{rest}"));
            Err(location.write(format_args!("{shown} is unencrypted and could be tampered with"), Quoted(&secure)))
        }
        _ if ["s3", "https", "file"].contains(&scheme.to_lowercase().as_str()) => {
            let right = without_secrets(&format!("{}://{rest}", scheme.to_lowercase()));
            Err(location.write(format_args!("{shown} has its scheme in capitals"), Quoted(&right)))
        }
        _ => {
            let what = format_args!("{shown} has none of the schemes s3, https and file");
            Err(location.write(what, location.key.example))
        }
    }
}

fn s3(rest: &str, location: &Location<'_>) -> Result<Source, Reported> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    // Wider than today's rule (3 to 63 lower-case letters, digits, dots, dashes): buckets created in us-east-1 before 2018
    // may have 255 characters, capitals and underscores.
    let right = (3..=255).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !right {
        return Err(location.write(format_args!("{} is not a bucket's name", Quoted(bucket)), "\"s3://bucket/key\""));
    }
    if key.is_empty() || key.ends_with('/') {
        let what = "names no object in the bucket";
        return Err(location.write(what, format_args!("\"s3://{bucket}/{key}name\"")));
    }
    // S3's limit for a key, in bytes of UTF-8.
    if key.len() > 1024 {
        return Err(location.mistake("has a key longer than 1024 bytes", "write the object's key"));
    }
    Ok(Source::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn https(text: &str, rest: &str, location: &Location<'_>) -> Result<Source, Reported> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    if host.is_empty() || host.starts_with(':') {
        return Err(location.write("names no host", "\"https://host/path\""));
    }
    if text.contains(is_blank) {
        return Err(location.mistake("holds white space", "write %20 for a space"));
    }
    Ok(Source::Https(text.to_owned()))
}
