//! Checks of single values that several tables share.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose};

use crate::config::digest::Sha256Digest;
use crate::config::reader::Located;
use crate::config::report::{Location, Quoted, Reported};

/// White space, including the byte order mark, as in the JSON Schema's regular expressions (ECMA-262).
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

/// A name: not empty, without control characters.
pub(super) fn name(text: &str, location: &Location<'_>) -> Result<String, Reported> {
    if text.chars().all(is_blank) {
        return Err(location.write("is empty", format_args!("{} = {}", location.key.name, location.key.example)));
    }
    if text.contains(char::is_control) {
        return Err(location.mistake("holds a control character", "remove it"));
    }
    Ok(text.to_owned())
}

/// The longest time span: a deadline must fit into an `Instant`, and more than a year must be a mistake.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// A longer time span is probably a typing error, and warned of: Auto Scaling waits for two days at most.
const SUSPICIOUS: Duration = Duration::from_hours(7 * 24);

/// A time span that is not zero.
pub(super) fn duration(text: &str, location: &Location<'_>) -> Result<Duration, Reported> {
    match duration_or_zero(text, location)? {
        Duration::ZERO => Err(location.write("is zero, and would time out at once", location.key.example)),
        span => Ok(span),
    }
}

/// A time span that may be zero.
pub(super) fn duration_or_zero(text: &str, location: &Location<'_>) -> Result<Duration, Reported> {
    let example = location.key.example;
    let right = if !text.is_empty() && text.len() < 16 && text.bytes().all(|b| b.is_ascii_digit()) {
        format!("\"{text}s\"")
    } else if let Some(number) = months(text) {
        format!("\"{number}m\"")
    } else {
        example.to_owned()
    };
    let Ok(span) = humantime::parse_duration(text) else {
        return Err(location.write(format_args!("{} is not a time span", Quoted(text)), right));
    };
    if span > LONGEST {
        return Err(location.write(format_args!("{} is longer than a year", Quoted(text)), right));
    }
    if let Some(number) = months(text) {
        let what = format_args!("\"{text}\" is {number} month{}", if number == "1" { "" } else { "s" });
        location.warn(what, format_args!("if minutes are meant, write \"{number}m\""));
    } else if span > SUSPICIOUS {
        let days = span.as_secs() / (24 * 60 * 60);
        location.warn(format_args!("{} is {days} days", Quoted(text)), "write a shorter time if that is not intended");
    }
    Ok(span)
}

/// The number in `5M`, which humantime reads as months.
fn months(text: &str) -> Option<&str> {
    let number = text.trim().strip_suffix('M')?.trim_end();
    (!number.is_empty() && number.len() < 16 && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

/// A SHA-256 digest.
pub(super) fn sha256(text: &str, location: &Location<'_>) -> Result<Sha256Digest, Reported> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    let bare = text.trim().trim_start_matches("sha256:").trim_start_matches("sha256-");
    if bare.parse::<Sha256Digest>().is_ok() {
        return Err(location.write("holds more than a digest", format_args!("\"{bare}\"")));
    }
    let count = text.chars().count();
    let what = match text.chars().find(|c| !c.is_ascii_hexdigit()) {
        Some(other) => format!("\"{}\" is not a hex digit", other.escape_debug()),
        None => format!("{count} hex digits instead of 64"),
    };
    Err(location.mistake(what, "write what sha256sum prints"))
}

/// The standard alphabet; padding is optional, because the length implies it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(false),
);

fn bare(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

/// Decodes base64, ignoring white space: `base64` breaks its lines.
pub(in crate::config) fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    BASE64.decode(bare(text))
}

/// Decodes base64, and reports what is none. Reports do not repeat the text.
pub(super) fn base64(text: &str, location: &Location<'_>) -> Result<Vec<u8>, Reported> {
    let wrong = match decode(text) {
        Ok(bytes) => return Ok(bytes),
        Err(wrong) => wrong,
    };
    let bare = bare(text);
    if general_purpose::URL_SAFE.decode(&bare).is_ok() || general_purpose::URL_SAFE_NO_PAD.decode(&bare).is_ok() {
        return Err(location.mistake("is base64 in the URL alphabet", "write + for - and / for _"));
    }
    let what = match wrong {
        base64::DecodeError::InvalidByte(at, _) => format!("is not base64 from its character {} on", at + 1),
        _ => "is base64 that was cut short".to_owned(),
    };
    Err(location.mistake(what, "write what base64 -w0 prints"))
}

/// Values and where they stand.
pub(super) type Places<'a> = HashMap<&'a str, Location<'a>>;

/// Reports each value that was given before, and returns where each is given last.
pub(super) fn distinct<'a>(
    given: impl Iterator<Item = (&'a str, Located<'a, &'a str>)>,
    what: &str,
    instead: &str,
) -> Places<'a> {
    let mut places = Places::new();
    for (value, Located { value: written, location, .. }) in given {
        if let Some(first) = places.insert(value, location) {
            let line = first.report.refer(first.position, location.position);
            location.mistake(format_args!("{} is already the {what} in {line}", Quoted(written)), instead);
        }
    }
    places
}

/// Checks bytes against the configured checksum. Reports do not show the actual one: it could reveal a short secret.
pub(super) fn verify(wanted: Sha256Digest, bytes: &[u8], of: &str, location: &Location<'_>) -> Result<(), Reported> {
    if Sha256Digest::of(bytes) == wanted {
        return Ok(());
    }
    let instead = format_args!("write the sha256sum of {of}, or correct {of}, or remove this key");
    Err(location.mistake(format_args!("is not the digest of {of}"), instead))
}
