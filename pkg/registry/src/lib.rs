//! The generic registry: objects, lists, watches and strategies over a store.
