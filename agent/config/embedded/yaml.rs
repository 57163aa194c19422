//! Reads the YAML that people write in a cloud-config: tables and lists in block style, block scalars, texts on one line. What
//! else may stand there is passed over where its end is certain, and refused where not.
//!
//! Not by a crate: a parser of all of YAML (saphyr-parser, the smallest that is maintained) adds 96 KB to the binary. cloud-init
//! parses with `PyYAML`, and this reader agrees with it on all that it reads.

use std::fmt;
use std::ops::Range;

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A text, and where it stands.
    Text(String, Range<usize>),
    List(Vec<Node>),
    /// No key is written twice.
    Table(Vec<(String, Node)>),
    /// Any value that is not read: none, flow style, a folded text.
    Other,
}

impl Node {
    /// The value of a table's key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Node::Table(keys) = self else { return None };
        keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Why a text is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread {
    line: usize,
    what: &'static str,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in its line {}", self.what, self.line)
    }
}

/// How deep values may be nested.
const DEEPEST: usize = 20;

pub(super) fn read(text: &str) -> Result<Node, Unread> {
    // Line ends of YAML that are none here, and what YAML forbids.
    let is_refused = |c: char| {
        let is_control = c.is_control() && !matches!(c, '\n' | '\t');
        is_control || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    if let Some(at) = text.find(is_refused) {
        let line = text[..at].matches('\n').count() + 1;
        return Err(Unread { line, what: "a character that is not read" });
    }
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(|whole| {
        let line = Line::new(whole.strip_suffix('\n').unwrap_or(whole), start);
        start += whole.len();
        line
    });
    let mut reader = Reader { text, lines: lines.collect(), at: 0, depth: 0 };
    if reader.next().is_some_and(|line| line.text.trim_end() == "---") {
        reader.at += 1;
    }
    let root = match reader.next() {
        None => Node::Other,
        Some(_) => reader.block()?,
    };
    match reader.next() {
        None => Ok(root),
        Some(_) => reader.refuse("an indentation that is not read"),
    }
}

/// A line without its indentation.
#[derive(Clone, Copy)]
struct Line<'a> {
    indent: usize,
    text: &'a str,
    /// The offset of `text`.
    start: usize,
}

impl<'a> Line<'a> {
    fn new(line: &'a str, start: usize) -> Self {
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        Line { indent, text, start: start + indent }
    }

    /// The line behind its first `bytes`, as if they were indentation.
    fn behind(self, bytes: usize) -> Self {
        let inner = Line::new(&self.text[bytes..], self.start + bytes);
        Line { indent: self.indent + bytes + inner.indent, ..inner }
    }

    fn is_entry(self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }
}

struct Reader<'a> {
    text: &'a str,
    lines: Vec<Line<'a>>,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn refuse<T>(&self, what: &'static str) -> Result<T, Unread> {
        Err(Unread { line: self.at + 1, what })
    }

    /// The next line that is neither blank nor a comment.
    fn next(&mut self) -> Option<Line<'a>> {
        while let Some(line) = self.lines.get(self.at) {
            if !is_empty(line.text) {
                return Some(*line);
            }
            self.at += 1;
        }
        None
    }

    /// Reads the value that begins in the next line, which may be the rest of a line that was begun.
    fn block(&mut self) -> Result<Node, Unread> {
        let Some(line) = self.next() else { return Ok(Node::Other) };
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.refuse("values nested too deep");
        }
        let node = if line.is_entry() {
            self.list(line.indent)?
        } else if self.key(line)?.is_some() {
            self.table(line.indent)?
        } else {
            // A text alone: its further lines are indented as its first one, or less.
            return self.refuse("a text where a key is expected");
        };
        self.depth -= 1;
        Ok(node)
    }

    fn list(&mut self, indent: usize) -> Result<Node, Unread> {
        let mut entries = Vec::new();
        while let Some(line) = self.next() {
            if line.indent < indent || line.indent == indent && !line.is_entry() {
                break;
            }
            if line.indent > indent {
                return self.refuse("an indentation that is not read");
            }
            let inner = line.behind(1);
            let is_block = inner.is_entry() || !is_empty(inner.text) && self.key(inner)?.is_some();
            entries.push(if is_block {
                self.lines[self.at] = inner;
                self.block()?
            } else {
                self.value(inner, indent, false)?
            });
        }
        Ok(Node::List(entries))
    }

    fn table(&mut self, indent: usize) -> Result<Node, Unread> {
        let mut keys: Vec<(String, Node)> = Vec::new();
        while let Some(line) = self.next() {
            if line.indent < indent {
                break;
            }
            let Some((key, length)) = self.key(line)?.filter(|_| line.indent == indent && !line.is_entry()) else {
                return self.refuse("a line that is not read");
            };
            if keys.iter().any(|(other, _)| *other == key) {
                return self.refuse("a key written twice");
            }
            let value = self.value(line.behind(length), indent, true)?;
            keys.push((key, value));
        }
        Ok(Node::Table(keys))
    }

    /// The key that a line begins with, and the length of the key and its colon.
    fn key(&self, line: Line<'a>) -> Result<Option<(String, usize)>, Unread> {
        let text = line.text;
        let is_separator = |at: usize| {
            let rest = &text[at..];
            rest == ":" || rest.starts_with(": ")
        };
        match text.as_bytes().first() {
            Some(b'"' | b'\'') => {
                let end = self.quoted(text)?;
                let Some(key) = unquoted(&text[..end]).filter(|_| is_separator(end)) else { return Ok(None) };
                Ok(Some((key, end + 1)))
            }
            // No keys; whether they are values is decided there.
            Some(byte) if b"[]{},|>&*!%@`\t".contains(byte) => Ok(None),
            _ if text == "?" || ["? ", "---", "..."].iter().any(|start| text.starts_with(start)) => {
                self.refuse("a line that is not read")
            }
            _ => {
                let bare = without_comment(text);
                let end = bare.match_indices(':').map(|(at, _)| at).find(|at| is_separator(*at));
                let key = end.map(|end| (text[..end].trim_end().to_owned(), end + 1));
                match key {
                    Some((key, _)) if key.is_empty() || key.contains('\t') => self.refuse("a key that is not read"),
                    key => Ok(key),
                }
            }
        }
    }

    /// Reads a value: `line` is the rest of its first line, `indent` that of the list or table around it.
    fn value(&mut self, line: Line<'a>, indent: usize, is_of_a_table: bool) -> Result<Node, Unread> {
        if is_empty(line.text) {
            self.at += 1;
            return match self.next() {
                Some(next) if next.indent > indent || is_of_a_table && next.indent == indent && next.is_entry() => {
                    self.block()
                }
                _ => Ok(Node::Other),
            };
        }
        let text = line.text;
        let (end, node) = match text.as_bytes()[0] {
            b'|' | b'>' => return self.block_text(text, indent),
            b'"' | b'\'' => {
                let end = self.quoted(text)?;
                let Some(inner) = unquoted(&text[..end]) else { return self.refuse("an escape that is not read") };
                (end, Node::Text(inner, line.start..line.start + end))
            }
            b'[' | b'{' => (self.flow(text)?, Node::Other),
            b'&' | b'*' | b'!' | b'%' | b'@' | b'`' | b'\t' | b']' | b'}' | b',' => {
                return self.refuse("a value that is not read");
            }
            _ => return self.plain(line, indent),
        };
        let rest = &text[end..];
        if !without_comment(rest).is_empty() {
            return self.refuse("a value that is not read");
        }
        self.at += 1;
        self.must_end(indent)?;
        Ok(node)
    }

    /// Refuses a next line that would go on with the value before it.
    fn must_end(&mut self, indent: usize) -> Result<(), Unread> {
        match self.next() {
            Some(next) if next.indent > indent => self.refuse("an indentation that is not read"),
            _ => Ok(()),
        }
    }

    /// Reads a text without quotes. One of several lines is passed over.
    fn plain(&mut self, line: Line<'a>, indent: usize) -> Result<Node, Unread> {
        let bare = without_comment(line.text);
        let holds_a_key = |text: &str| text.contains(": ") || text.ends_with(':') || text.contains('\t');
        if holds_a_key(bare) || ["-", "?"].contains(&bare) || bare.starts_with("- ") || bare.starts_with("? ") {
            return self.refuse("a value that is not read");
        }
        self.at += 1;
        let mut node = Node::Text(bare.to_owned(), line.start..line.start + bare.len());
        let mut from = self.at;
        let mut has_comment = bare.len() < line.text.trim_end_matches(' ').len();
        while let Some(next) = self.next().filter(|next| next.indent > indent) {
            // A comment would have ended the text.
            has_comment |= self.lines[from..self.at].iter().any(|line| line.text.starts_with('#'));
            let further = without_comment(next.text);
            if has_comment || holds_a_key(further) {
                return self.refuse("a line that is not read");
            }
            has_comment = further.len() < next.text.trim_end_matches(' ').len();
            node = Node::Other;
            self.at += 1;
            from = self.at;
        }
        Ok(node)
    }

    /// Reads a block scalar, whose header is `text`.
    fn block_text(&mut self, text: &str, parent: usize) -> Result<Node, Unread> {
        let header = without_comment(text);
        let (mut chomp, mut given) = (None, None);
        for byte in header.bytes().skip(1) {
            match byte {
                b'+' | b'-' if chomp.is_none() => chomp = Some(byte),
                b'1'..=b'9' if given.is_none() => given = Some(parent + usize::from(byte - b'0')),
                _ => return self.refuse("a block that is not read"),
            }
        }
        self.at += 1;
        let is_blank = |line: &&Line<'_>| line.text.is_empty();
        let blanks = self.lines[self.at..].iter().take_while(is_blank).count();
        let first = self.lines.get(self.at + blanks).filter(|first| first.indent > parent);
        let indent = given.or(first.map(|first| first.indent)).unwrap_or(parent + 1);
        if self.lines[self.at..][..blanks].iter().any(|line| line.indent > indent) {
            return self.refuse("a first line with more blanks than those below it");
        }
        let start = self.lines.get(self.at).map_or(self.text.len(), |line| line.start - line.indent);
        let mut lines = Vec::new();
        let mut end = start;
        while let Some(line) = self.lines.get(self.at).filter(|line| line.indent >= indent || line.text.is_empty()) {
            let after = line.start + line.text.len();
            lines.push(&self.text[(line.start - line.indent + indent).min(after)..after]);
            end = (after + 1).min(self.text.len());
            self.at += 1;
        }
        self.must_end(parent)?;
        if header.starts_with('>') {
            return Ok(Node::Other);
        }
        let is_cut = end == self.text.len() && !self.text.ends_with('\n');
        let mut content = lines.iter().fold(String::new(), |text, line| text + line + "\n");
        if is_cut {
            content.pop();
        }
        let bare = content.trim_end_matches('\n').len();
        match chomp {
            Some(b'+') => {}
            Some(_) => content.truncate(bare),
            None if bare == 0 => content.clear(),
            None => content.truncate(bare + 1),
        }
        Ok(Node::Text(content, start..end))
    }

    /// The length of the quoted text that begins a line.
    fn quoted(&self, text: &str) -> Result<usize, Unread> {
        quoted_length(text).map_or_else(|| self.refuse("a quoted text of several lines"), Ok)
    }

    /// The length of the value in flow style that begins a line.
    fn flow(&self, text: &str) -> Result<usize, Unread> {
        let bytes = text.as_bytes();
        // What is open; whether a value may begin, or has ended with a quote or bracket.
        let (mut open, mut begins, mut ended) = (Vec::new(), true, false);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let follows_blank = at > 0 && bytes[at - 1] == b' ';
            match byte {
                b' ' => {}
                b',' if !begins => (begins, ended) = (true, false),
                b':' if !begins && (ended || bytes.get(at + 1) == Some(&b' ')) => (begins, ended) = (true, false),
                b'[' | b'{' if begins => open.push(byte),
                b']' | b'}' if open.pop() == Some(if byte == b']' { b'[' } else { b'{' }) => {
                    (begins, ended) = (false, true);
                    if open.is_empty() {
                        return Ok(at + 1);
                    }
                }
                b'"' | b'\'' if begins => {
                    at += self.quoted(&text[at..])? - 1;
                    (begins, ended) = (false, true);
                }
                _ if ended || begins && !byte.is_ascii_alphanumeric() && !b"-_./$+~=(".contains(&byte) => break,
                b'#' if follows_blank => break,
                b',' | b'[' | b'{' | b']' | b'}' | b'\t' => break,
                _ => begins = false,
            }
            at += 1;
        }
        self.refuse("a value in brackets that is not read")
    }
}

fn is_empty(text: &str) -> bool {
    text.trim_start_matches(' ').is_empty() || text.starts_with('#')
}

/// A line up to its comment, without blanks at the end. The comment's sign is preceded by a blank.
fn without_comment(text: &str) -> &str {
    let end = text.find(" #").unwrap_or(text.len());
    text[..end].trim_end_matches(' ')
}

fn quoted_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let quote = bytes[0];
    let mut at = 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if quote == b'"' => at += 2,
            b'\'' if quote == b'\'' && bytes.get(at + 1) == Some(&b'\'') => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// What a quoted text means; none for escapes that JSON does not have, too, and for halves of characters.
fn unquoted(quoted: &str) -> Option<String> {
    match quoted.strip_prefix('\'') {
        Some(inner) => Some(inner.strip_suffix('\'')?.replace("''", "'")),
        None if quoted.to_lowercase().contains("\\ud") => None,
        None => serde_json::from_str(quoted).ok(),
    }
}
