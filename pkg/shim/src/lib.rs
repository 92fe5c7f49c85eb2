//! The per-container shim: stdio, logs, exec, attach and the exit record; and the client that talks to it.
