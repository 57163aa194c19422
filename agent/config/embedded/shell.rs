//! The configuration as a here-document of a shell script.

use super::{Embedded, PATH, found, not_found};
use crate::config::script;

pub(super) fn find(text: &str) -> Embedded {
    let interpreter = text.lines().next().unwrap_or_default();
    if !interpreter.trim_end().ends_with("sh") {
        return not_found(text, "is a script for another program than a shell");
    }
    // bash passes over zero bytes, and takes a carriage return for part of a word.
    if text.contains(['\r', '\0']) {
        return not_found(text, "is a script with carriage returns or zero bytes");
    }
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let after = start + line.len();
        if let Some(document) = HereDocument::begin(line)
            && script::ends_at_top_level(&text.as_bytes()[..start])
        {
            return document.read(text, after);
        }
        start = after;
    }
    not_found(text, format!("is a script that names {PATH}, and writes it in a way that is not read"))
}

/// A command that writes the configuration's file, from its next line on.
struct HereDocument<'a> {
    delimiter: &'a str,
    is_quoted: bool,
}

impl<'a> HereDocument<'a> {
    /// Reads `cat > PATH <<'END'` and `cat <<'END' > PATH`; none for any other command.
    fn begin(line: &'a str) -> Option<Self> {
        let mut rest = line.trim_end().strip_prefix("cat ")?.trim_start();
        let (mut delimiter, mut writes) = (None, false);
        while !rest.is_empty() {
            let (operator, after) = ["<<", ">"].iter().find_map(|one| Some((*one, rest.strip_prefix(*one)?)))?;
            let after = after.trim_start_matches(' ');
            let (word, is_quoted, after) = word(after)?;
            match operator {
                "<<" if delimiter.is_none() => delimiter = Some((word, is_quoted)),
                ">" if word == PATH && !writes => writes = true,
                _ => return None,
            }
            rest = after.trim_start_matches(' ');
        }
        let (delimiter, is_quoted) = delimiter.filter(|_| writes)?;
        Some(HereDocument { delimiter, is_quoted })
    }

    /// Reads the document that begins at `start`.
    fn read(&self, text: &str, start: usize) -> Embedded {
        let mut end = start;
        let is_end = |line: &str| line.strip_suffix('\n').unwrap_or(line) == self.delimiter;
        for line in text[start..].split_inclusive('\n').take_while(|line| !is_end(line)) {
            end += line.len();
        }
        let body = &text[start..end];
        if end == text.len() {
            return Embedded::Unclear(format!("is a script whose here-document has no end: {}", self.delimiter));
        }
        if !self.is_quoted && body.contains(['$', '`', '\\']) {
            let delimiter = self.delimiter;
            return Embedded::Unclear(format!("is a script that expands the configuration: write <<'{delimiter}'"));
        }
        found(body.to_owned(), [&text[..start], &text[end..]].concat())
    }
}

/// A word of letters, digits and what stands in paths, bare or in quotes; whether it is quoted, and what follows.
fn word(text: &str) -> Option<(&str, bool, &str)> {
    let of_a_word = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'));
    let inner = quote.map_or(text, |_| &text[1..]);
    let (word, after) = inner.split_at(inner.find(|c| !of_a_word(c)).unwrap_or(inner.len()));
    let after = match quote {
        Some(quote) => after.strip_prefix(quote)?,
        None => after,
    };
    // `<<-` removes tabs.
    let is_whole =
        !word.is_empty() && !word.starts_with('-') && (after.is_empty() || after.starts_with([' ', '<', '>']));
    is_whole.then_some((word, quote.is_some(), after))
}
