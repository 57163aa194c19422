//! What a configuration is checked against beside its text: the machine that it is for.

use std::fmt;
use std::path::Path;

/// The machine that a configuration is for.
pub trait Host: fmt::Debug + Sync {
    /// Whether it has this account. May block for seconds, while a name service does not answer.
    fn find(&self, database: Database, name: &str) -> Result<(), Unfound>;

    /// The hooks' script at this path.
    fn script(&self, path: &Path) -> Result<Vec<u8>, Unread>;
}

/// Which database a name is looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// The users'.
    Users,
    /// The groups'.
    Groups,
}

impl Database {
    /// `user`, `group`
    pub fn noun(self) -> &'static str {
        match self {
            Database::Users => "user",
            Database::Groups => "group",
        }
    }
}

/// Why an account has no id, as the end of a sentence that begins with its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfound {
    /// There is none.
    Absent(String),
    /// It cannot be told.
    Unclear(String),
}

/// Why the hooks' script was not read, as the end of a sentence that begins with its path.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// It may come to be readable.
    Trouble {
        /// What was seen.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// What is there is no script.
    NoScript {
        /// What was seen.
        what: String,
        /// What to write in the path's place.
        wanted: &'static str,
    },
}
