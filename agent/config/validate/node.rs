//! `[node]`.

use std::net::IpAddr;

use super::value;
use crate::config::model::Node;
use crate::config::reader::TableReader;
use crate::config::report::{Location, Quoted, Reported};
use crate::config::schema::node as keys;

pub(super) fn read(reader: &TableReader<'_>) -> Result<Node, Reported> {
    let id = reader.checked(&keys::ID, value::name);
    let ip = reader.checked(&keys::IP, ip);
    Ok(Node { id: id?, ip: ip? })
}

fn ip(text: &str, location: &Location<'_>) -> Result<IpAddr, Reported> {
    text.parse().map_err(|_| {
        let what = format_args!("{} is no IP address", Quoted(text));
        let bare = text.trim().split('/').next().unwrap_or("");
        match bare.parse::<IpAddr>() {
            Ok(ip) => location.write(what, format_args!("\"{ip}\"")),
            Err(_) => location.write(what, format_args!("the node's fixed address, as {}", location.key.example)),
        }
    })
}
