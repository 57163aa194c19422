//! The host that a configuration is checked against.

use std::fmt;
use std::path::Path;

/// The host that a configuration is for.
pub trait Host: fmt::Debug + Sync {
    /// Looks an account up. May block for seconds, while a name service does not answer.
    fn find(&self, database: Database, name: &str) -> Result<(), Unfound>;

    /// Reads the hooks' script at this path.
    fn script(&self, path: &Path) -> Result<Vec<u8>, Unread>;
}

/// The database for looking a name up.
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

/// Why an account was not found, as the end of a sentence that begins with its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfound {
    /// The account does not exist.
    Absent(String),
    /// The database gave no answer.
    Unclear(String),
}

/// Why the hooks' script was not read, as the end of a sentence that begins with its path.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// The script may become readable.
    Trouble {
        /// What was observed.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The path does not lead to a script.
    NoScript {
        /// What was observed.
        what: String,
        /// What to write instead of the path.
        wanted: &'static str,
    },
}
