//! One small process per container: it creates the container as its own child, owns its
//! standard streams, writes its log, serves exec and attach, and leaves an exit record on disk.
//!
//! The daemon above may die at any time. It finds the shim again over the socket in the run
//! folder, and what happened meanwhile in the log and in `exit.json`. A shim that is killed
//! does not take its container along; the next [`Shim::connect`] starts one that adopts it.
//!
//! # The run folder
//! | file | what |
//! |---|---|
//! | `shim.json` | the [`Launch`] this shim was started with |
//! | `shim.sock` | the socket; gone when the shim has left in good order |
//! | `state.json` | pids and times that an adopting shim needs |
//! | `stdin`, `stdout`, `stderr` | fifos that carry the container's streams |
//! | `exit.json` | the [`ExitRecord`], written once, complete when it is there |
//! | `shim.log` | what the shim itself had to say |

mod error;
pub mod proto;
mod record;
pub mod server;

#[cfg(feature = "client")]
mod client;

#[cfg(feature = "client")]
pub use client::{AttachSession, ExecSession, Input, Output, Shim};
pub use error::{Error, Refusal};
pub use proto::{Created, ExecSpec, Launch, ShimState, Stats, Status};
pub use record::{ExitRecord, read_exit};
