//! Real clusters of three nodes, each brought up by the real agent with a hook of packaging/hooks, and rolled under load.
//!
//! A test runs in namespaces of its own (`room`): processes, mounts and the network end with it, however it ends. In there are a
//! bridge and a network namespace for each node (`network`), the simulated region with a group, an interface and a volume for each
//! node (`region`), the operator who rolls (`operator`), and a client that writes without pause (`writer`). What differs from cluster
//! to cluster is a `Kind` (`kind`; `etcd`, `zookeeper`, `kafka`); what every cluster must show is in `promises`.
//!
//! Another cluster is a file here that implements `Kind`, and a `tests/cluster_NAME.rs` that calls the promises.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each cluster uses its part")]

pub mod java;
pub mod kind;
pub mod network;
pub mod operator;
#[path = "../roll/process.rs"]
pub mod process;
pub mod promises;
pub mod region;
pub mod room;
pub mod writer;
