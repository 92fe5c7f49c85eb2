//! The pod network: the built-in bridge plugin, addresses, host ports; and the netlink and
//! nftables encoders it shares with the service proxy. No program of the host is called.
#![forbid(unsafe_code)]

mod bridge;
pub mod cidr;
pub mod conntrack;
mod error;
mod lease;
mod ledger;
pub mod netlink;
pub mod nft;
mod nodes;
mod rules;
#[cfg(feature = "testing")]
pub mod testing;
mod types;

pub use bridge::Bridge;
pub use error::Error;
pub use nodes::{NodesConfig, NodesNetwork};
pub use types::{
    AddRequest, Attachment, Bandwidth, Config, HostPort, Peer, Protocol, Status,
};
