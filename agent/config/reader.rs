//! Typed reading of a table. Keys that the schema does not declare are reported.

use super::report::{Location, Position, Quoted, Report, Reported, UnknownKeys};
use super::schema::{self, Key, Kind, Literal, Presence, Shape, Table};
use super::tree::{Fields, Item, Value};

/// Checks a string and converts it.
type Check<T> = fn(&str, &Location<'_>) -> Result<T, Reported>;

/// A value, and its location for reports.
#[derive(Clone, Copy)]
pub(super) struct Located<'a, T> {
    pub(super) value: T,
    pub(super) location: Location<'a>,
    /// Whether the text has the value, or only the schema as a default.
    pub(super) written: bool,
}

impl<'a, T> Located<'a, T> {
    /// Checks the value and converts it.
    pub(super) fn check<U>(self, check: impl FnOnce(T, &Location<'a>) -> Result<U, Reported>) -> Result<U, Reported> {
        check(self.value, &self.location)
    }
}

#[derive(Clone, Copy)]
pub(super) struct TableReader<'a> {
    report: &'a Report,
    table: &'static Table,
    fields: &'a Fields,
}

impl<'a> TableReader<'a> {
    /// Opens a table and reports its unknown keys, as mistakes or as warnings.
    pub(super) fn open(report: &'a Report, table: &'static Table, fields: &'a Fields) -> Self {
        for (name, field) in &fields.keys {
            let known = table.key(name).is_some() || (table.shape == Shape::Root && schema::table(name).is_some());
            if !known {
                let is_table = matches!(&field.value.item, Item::Table(_) | Item::List(_));
                let (what, instead) = unknown(table, name, is_table);
                match report.unknown_keys {
                    UnknownKeys::Mistakes => drop(report.mistake(field.key_at, what, instead)),
                    UnknownKeys::Warnings => {
                        let instead = format_args!("a newer agent may know it; if none does: {instead}");
                        report.warn(field.key_at, what, instead);
                    }
                }
            }
        }
        Self { report, table, fields }
    }

    /// The location of a key's value, or else of the table's header.
    pub(super) fn location(&self, key: &'static Key) -> Location<'a> {
        let position = self.fields.keys.get(key.name).map_or(self.header(), |field| field.value.at);
        Location { report: self.report, table: self.table, key, position }
    }

    pub(super) fn header(&self) -> Position {
        self.fields.headers.first().copied().unwrap_or(Position { layer: 0, offset: 0 })
    }

    fn item(&self, key: &'static Key) -> Option<&'a Item> {
        debug_assert_eq!(key.table, self.table.name, "{} is read from the wrong table", key.name);
        self.fields.keys.get(key.name).map(|field| &field.value.item)
    }

    /// Whether a key is written, even with a wrong value.
    pub(super) fn has(&self, key: &'static Key) -> bool {
        self.item(key).is_some()
    }

    /// A string; `None` if the key is neither written nor has a default.
    pub(super) fn text(&self, key: &'static Key) -> Result<Option<Located<'a, &'a str>>, Reported> {
        let location = self.location(key);
        match (self.item(key), key.presence) {
            (Some(Item::Text(value)), _) => Ok(Some(Located { value, location, written: true })),
            (Some(other), _) => Err(wrong_type(location, other)),
            (None, Presence::Default(Literal::Text(value))) => Ok(Some(Located { value, location, written: false })),
            (None, _) => Ok(None),
        }
    }

    /// A required string.
    pub(super) fn required(&self, key: &'static Key) -> Result<Located<'a, &'a str>, Reported> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A required string, checked and converted.
    pub(super) fn checked<T>(&self, key: &'static Key, check: Check<T>) -> Result<T, Reported> {
        self.required(key)?.check(check)
    }

    /// A string, if there is one, checked and converted.
    pub(super) fn optional<T>(&self, key: &'static Key, check: Check<T>) -> Result<Option<T>, Reported> {
        self.text(key)?.map(|given| given.check(check)).transpose()
    }

    /// A boolean.
    pub(super) fn flag(&self, key: &'static Key) -> Result<bool, Reported> {
        match self.item(key) {
            None => Ok(key.presence == Presence::Default(Literal::Flag(true))),
            Some(Item::Flag(flag)) => Ok(*flag),
            Some(other) => Err(wrong_type(self.location(key), other)),
        }
    }

    /// A boolean or one of `words`, as the value it stands for.
    pub(super) fn flag_or<T: Copy>(&self, key: &'static Key, flag: [T; 2], words: &[(&str, T)]) -> Result<T, Reported> {
        match self.item(key) {
            Some(Item::Text(text)) if text.to_lowercase().parse::<bool>().is_err() => self.choice(key, words),
            _ => self.flag(key).map(|value| flag[usize::from(value)]),
        }
    }

    /// A list of strings, each with its own location.
    pub(super) fn list(&self, key: &'static Key) -> Result<Vec<Located<'a, &'a str>>, Reported> {
        let location = self.location(key);
        let entries = match self.item(key) {
            None => return Ok(Vec::new()),
            Some(Item::List(entries)) => entries,
            Some(other) => return Err(wrong_type(location, other)),
        };
        let read = |entry: &'a Value| {
            let location = Location { position: entry.at, ..location };
            match &entry.item {
                Item::Text(value) => Ok(Located { value: value.as_str(), location, written: true }),
                Item::Broken => Err(Reported(())),
                other => {
                    let what = format_args!("an entry is {}, not a string", other.type_name());
                    Err(location.write(what, format_args!("{} = {}", key.name, key.example)))
                }
            }
        };
        all(entries.iter().map(read))
    }

    /// A user or group: a string or a number without a minus sign.
    pub(super) fn account(&self, key: &'static Key) -> Result<Option<Located<'a, &'a str>>, Reported> {
        match self.item(key) {
            Some(Item::Integer(digits, 10)) => {
                let value = digits.strip_prefix('+').unwrap_or(digits);
                Ok(Some(Located { value, location: self.location(key), written: true }))
            }
            _ => self.text(key),
        }
    }

    /// One of the key's words, as the value it stands for.
    pub(super) fn choice<T: Copy>(&self, key: &'static Key, values: &[(&str, T)]) -> Result<T, Reported> {
        let given = self.required(key)?;
        if let Some((_, value)) = values.iter().find(|(word, _)| *word == given.value) {
            return Ok(*value);
        }
        let words: Vec<&str> = values.iter().map(|(word, _)| *word).collect();
        let what = format_args!("{} is not one of its values", Quoted(given.value));
        match nearest(&given.value.to_lowercase(), &words) {
            Some(word) => Err(given.location.write(what, format_args!("\"{word}\""))),
            None => Err(given.location.write(what, format_args!("\"{}\"", words.join("\" or \"")))),
        }
    }

    /// The written one of the table's exclusive keys. Two of them are a mistake at the later one; none is one at the header.
    pub(super) fn one_of(&self) -> Result<&'static Key, Reported> {
        let keys = self.table.one_of.iter().filter_map(|name| self.table.key(name));
        let mut written: Vec<&'static Key> = keys.filter(|key| self.has(key)).collect();
        // Of a pair the schema names the leading key first.
        let leading = written.first().copied();
        written.sort_by_key(|key| self.location(key).position);
        let mut clash = None;
        for (at, &later) in written.iter().enumerate() {
            if let Some(earlier) = written[..at].iter().find(|key| self.table.exclusive(key.name, later.name)) {
                let location = self.location(later);
                let line = self.report.refer(self.location(earlier).position, location.position);
                let what = format_args!("excludes {}, which is in {line}", earlier.name);
                clash = Some(location.mistake(what, format_args!("keep only one of {}", self.alternatives())));
            }
        }
        match (clash, leading) {
            (Some(reported), _) => Err(reported),
            (None, Some(key)) => Ok(key),
            (None, None) if self.table.one_of.iter().any(|name| self.may_have(name)) => Err(Reported(())),
            (None, None) => {
                let what = format_args!("{}: has none of {}", self.table.header(), self.alternatives());
                let example = self.table.one_of.first().and_then(|name| self.table.key(name));
                let example = example.map_or_else(String::new, |key| format!("{} = {}", key.name, key.example));
                Err(self.report.mistake(self.header(), what, format_args!("write one of them, as {example}")))
            }
        }
    }

    /// Whether a missing key may be there after all: part of the table could not be parsed, or an unknown key resembles this
    /// one. Both are reported already.
    fn may_have(&self, name: &str) -> bool {
        let mistyped = |key: &String| self.table.key(key).is_none() && nearest(key, &names(self.table)) == Some(name);
        self.fields.headers.iter().any(|&header| self.report.incomplete(header))
            || self.is_reported_if_unknown() && self.fields.keys.keys().any(mistyped)
    }

    /// Whether an unknown key is a mistake. If it is only warned of, what it may stand for is still missing.
    fn is_reported_if_unknown(&self) -> bool {
        self.report.unknown_keys == UnknownKeys::Mistakes
    }

    /// Whether a table missing from the top level may be there after all.
    pub(super) fn may_have_table(&self, table: &Table) -> bool {
        let tables = schema::TABLES.map(|table| table.name);
        let mistyped = |key: &String| schema::table(key).is_none() && nearest(key, &tables) == Some(table.name);
        self.report.lost_a_header()
            || self.report.incomplete(self.header())
            || self.is_reported_if_unknown() && self.fields.keys.keys().any(mistyped)
    }

    fn alternatives(&self) -> String {
        self.table.one_of.join(", ")
    }

    pub(super) fn missing(&self, key: &'static Key) -> Reported {
        if self.may_have(key.name) {
            return Reported(());
        }
        let location = Location { report: self.report, table: self.table, key, position: self.header() };
        location.write("missing", format_args!("{} = {}", key.name, key.example))
    }

    /// A table below the top level.
    pub(super) fn table(&self, table: &'static Table) -> Result<Option<TableReader<'a>>, Reported> {
        let Some(field) = self.fields.keys.get(table.name) else { return Ok(None) };
        if let Item::List(entries) = &field.value.item
            && entries.iter().any(|entry| matches!(entry.item, Item::Table(_)))
        {
            let what = format_args!("{} can be written only once", table.header());
            let instead = format_args!("write {} in single brackets, once", table.header());
            return Err(self.report.mistake(field.value.at, what, instead));
        }
        self.below(table, &field.value).map(Some)
    }

    /// The entries of a repeated table below the top level.
    pub(super) fn each(&self, table: &'static Table) -> Vec<Result<TableReader<'a>, Reported>> {
        let Some(field) = self.fields.keys.get(table.name) else { return Vec::new() };
        if let Item::List(entries) = &field.value.item {
            return entries.iter().map(|entry| self.below(table, entry)).collect();
        }
        if let Item::Table(_) = &field.value.item {
            // Read nevertheless, so that the same report has its mistakes.
            let what = format_args!("[{}] can be written several times and needs two brackets", table.name);
            self.report.mistake(field.value.at, what, format_args!("write {}", table.header()));
        }
        vec![self.below(table, &field.value)]
    }

    /// Opens the table that a value should be.
    fn below(&self, table: &'static Table, value: &'a Value) -> Result<TableReader<'a>, Reported> {
        match &value.item {
            Item::Table(fields) => Ok(TableReader::open(self.report, table, fields)),
            Item::Broken => Err(Reported(())),
            other => {
                let what = format_args!("{}: is {}, not a table", table.name, other.type_name());
                Err(self.report.mistake(value.at, what, format_args!("write {} and its keys below it", table.header())))
            }
        }
    }
}

/// Every value, or a mistake; unlike `collect` into a `Result` it consumes all results.
pub(super) fn all<T>(results: impl IntoIterator<Item = Result<T, Reported>>) -> Result<Vec<T>, Reported> {
    let (mut values, mut failed) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(reported) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(values), Err)
}

/// Reports a value of the wrong type, with the right one.
fn wrong_type(location: Location<'_>, item: &Item) -> Reported {
    let key = location.key;
    let expected = match key.kind {
        Kind::Flag | Kind::FlagOr(_) => "a boolean",
        Kind::List | Kind::Names => "a list of strings",
        Kind::Account => "a name or a number",
        _ => "a string",
    };
    let right = match (key.kind, item) {
        (_, Item::Broken) => return Reported(()),
        (Kind::Flag | Kind::FlagOr(_), Item::Text(text)) if text.eq_ignore_ascii_case("true") => "true".to_owned(),
        (Kind::Flag | Kind::FlagOr(_), Item::Text(text)) if text.eq_ignore_ascii_case("false") => "false".to_owned(),
        (Kind::Flag, _) => "true or false".to_owned(),
        (Kind::FlagOr(words), _) => format!("true or false or \"{}\"", words.join("\" or \"")),
        // For anything but plain words the example is clearer.
        (Kind::List, Item::Text(text)) if !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) => {
            let entries: Vec<String> =
                text.split([',', ' ']).filter(|e| !e.is_empty()).map(|e| format!("\"{e}\"")).collect();
            format!("[{}]", entries.join(", "))
        }
        (Kind::Duration, Item::Integer(digits, 10)) => format!("\"{digits}s\""),
        (Kind::Mode, Item::Integer(digits, 8 | 10))
            if (1..=4).contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'7')) =>
        {
            format!("\"{digits:0>4}\"")
        }
        (Kind::Names, Item::Text(text)) if !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) => {
            format!("[\"{text}\"]")
        }
        (Kind::Text, Item::Integer(digits, 10)) => format!("\"{digits}\""),
        _ => key.example.to_owned(),
    };
    let what = format_args!("is {}, not {expected}", item.type_name());
    location.write(what, format_args!("{} = {right}", key.name))
}

/// The mistake and the remedy for a key that this table does not have.
fn unknown(table: &'static Table, name: &str, is_table: bool) -> (String, String) {
    let at_top = table.shape == Shape::Root;
    let what = match (at_top, is_table) {
        (true, true) => format!("unknown table {}", Quoted(name)),
        (true, false) => format!("unknown key {}", Quoted(name)),
        (false, _) => format!("{}: unknown key {}", table.header(), Quoted(name)),
    };
    let tables = schema::TABLES.map(|table| table.name);
    let keys = names(table);
    let elsewhere = schema::TABLES.iter().find(|other| other.key(name).is_some());
    let instead = if at_top && is_table {
        match nearest(name, &tables).and_then(schema::table) {
            Some(right) => format!("write {}", right.header()),
            None => format!("remove it; the tables are {}", schema::TABLES.map(Table::header).join(", ")),
        }
    } else if let Some(right) = nearest(name, &keys) {
        format!("write {right}")
    } else if let Some(other) = elsewhere {
        format!("move it below {}", other.header())
    } else if at_top {
        format!("remove it, or move it below one of {}", schema::TABLES.map(Table::header).join(", "))
    } else {
        format!("remove it; {} has {}", table.header(), keys.join(", "))
    };
    (what, instead)
}

fn names(table: &Table) -> Vec<&'static str> {
    table.keys.iter().map(|key| key.name).collect()
}

/// The most similar candidate, if any is similar enough.
pub(super) fn nearest<'c>(word: &str, candidates: &'c [impl AsRef<str>]) -> Option<&'c str> {
    // Two typing errors, or a common beginning: `mountpath`, `file_system_type`. Found with the mistypings in the tests; a lower
    // similarity offers unrelated words.
    const ALIKE: f64 = 0.88;
    let score = |candidate: &str| {
        let edits = strsim::damerau_levenshtein(word, candidate);
        let likeness = strsim::jaro_winkler(word, candidate);
        let close = edits * 3 <= candidate.chars().count() && edits <= 2;
        // `source` for `script_source`; shorter words match the end of too many keys.
        let end = word.len() > 4 && candidate.strip_suffix(word).is_some_and(|front| front.ends_with('_'));
        (close || end || likeness >= ALIKE).then_some(likeness)
    };
    // Longer texts are not mistyped keys, and the comparison's time grows with both lengths.
    if word.len() > 64 {
        return None;
    }
    let scored = candidates.iter().map(AsRef::as_ref).filter_map(|candidate| Some((score(candidate)?, candidate)));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
