//! The accounts and scripts of this machine, for checking a configuration.

use std::path::Path;

use super::accounts;
use super::read::{self, Pipes, Unreadable};
use crate::config::{Database, Host, Unfound, Unread};

/// This machine.
#[derive(Debug)]
pub struct ThisHost;

impl Host for ThisHost {
    fn find(&self, database: Database, name: &str) -> Result<(), Unfound> {
        accounts::find(database, name).map(drop)
    }

    fn script(&self, path: &Path) -> Result<Vec<u8>, Unread> {
        read::text(path, Pipes::Refused).map_err(|why| match why {
            Unreadable::Io(error) => Unread::Trouble {
                what: format!("cannot be read: {}", plain(&error)),
                remedy: "put the script there, or write the path where it is".to_owned(),
            },
            Unreadable::TimedOut(_) => Unread::Trouble {
                what: why.to_string(),
                remedy: format!(
                    "see which storage it is on (findmnt -T {}), or put it on the root disk",
                    path.display()
                ),
            },
            Unreadable::Not(_) | Unreadable::EmptyPipe => {
                Unread::NoScript { what: why.to_string(), wanted: "the path of the script itself" }
            }
            Unreadable::TooLarge(_) => Unread::NoScript { what: why.to_string(), wanted: "the path of a bash script" },
        })
    }
}

/// An I/O error without "(os error 2)".
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
