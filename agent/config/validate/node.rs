//! `[node]`.

use std::net::IpAddr;

use super::value;
use crate::config::model::Node;
use crate::config::reader::Sheet;
use crate::config::report::{Quoted, Reported, Spot};
use crate::config::schema::node as keys;

pub(super) fn read(sheet: &Sheet<'_>) -> Result<Node, Reported> {
    let id = sheet.required(&keys::ID).and_then(|given| given.check(value::name));
    let ip = sheet.required(&keys::IP).and_then(|given| given.check(ip));
    Ok(Node { id: id?, ip: ip? })
}

fn ip(text: &str, spot: &Spot<'_>) -> Result<IpAddr, Reported> {
    text.parse().map_err(|_| {
        let what = format_args!("{} is no IP address", Quoted(text));
        let bare = text.trim().split('/').next().unwrap_or("");
        match bare.parse::<IpAddr>() {
            Ok(ip) => spot.write(what, format_args!("\"{ip}\"")),
            Err(_) => spot.write(what, format_args!("the node's fixed address, as {}", spot.key.example)),
        }
    })
}
