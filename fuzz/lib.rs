//! The agent's parsers, and nothing else of it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the parsers offer what the agent uses")]

#[path = "../agent/config/mod.rs"]
pub mod config;

#[path = "../agent/host"]
pub mod host {
    pub mod export;
    pub mod mountinfo;
    pub mod octal;

    pub mod fstab {
        pub mod table;
    }
}
