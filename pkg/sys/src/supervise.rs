//! What a supervisor of processes needs: polling, signals as a descriptor, pidfds, descriptors
//! passed over sockets, fifos and terminals. Used by the shim and its client.
#![allow(unsafe_code)]

mod fdpass;
mod files;
mod keep;
mod pidfd;
mod poll;
mod process;
mod signals;

pub use fdpass::{recv_with_fds, send_with_fds};
pub use files::{close_stdout, mkfifo, set_blocking, set_pipe_size, set_window_size, window_size};
pub use keep::keep_open;
pub use pidfd::{ExitStatus, pidfd_exit_status, pidfd_get_fd, pidfd_open, pidfd_signal};
pub use poll::{Events, PollSet, poll_one};
pub use process::{
    Fork, Waited, become_subreaper, fork_single_threaded, kill_process, start_session,
    trim_allocator, wait_any, wait_for,
};
pub use signals::{SignalFd, with_default_signals};
