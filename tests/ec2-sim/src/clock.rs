//! The simulator's wall clock, which a scenario may set wrong to see what clients make of it.

use std::sync::atomic::{AtomicI64, Ordering};

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

const AMZ: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
const ISO: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const HTTP: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// A wall clock that is some seconds ahead of the machine's.
#[derive(Debug)]
pub(crate) struct Clock {
    ahead: AtomicI64,
}

impl Clock {
    pub(crate) fn new(ahead_seconds: i64) -> Self {
        Self { ahead: AtomicI64::new(ahead_seconds) }
    }

    pub(crate) fn set(&self, ahead_seconds: i64) {
        self.ahead.store(ahead_seconds, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + Duration::seconds(self.ahead.load(Ordering::Relaxed))
    }

    /// Now, as the `Date` header has it.
    pub(crate) fn http_date(&self) -> String {
        http_date(self.now())
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(at: OffsetDateTime) -> String {
    at.format(HTTP).unwrap_or_default()
}

/// `1994-11-06T08:49:37Z`.
pub(crate) fn iso(at: OffsetDateTime) -> String {
    at.format(ISO).unwrap_or_default()
}

/// Reads `19941106T084937Z`, the form of `x-amz-date`.
pub(crate) fn parse_amz(text: &str) -> Option<OffsetDateTime> {
    PrimitiveDateTime::parse(text, AMZ).ok().map(PrimitiveDateTime::assume_utc)
}
