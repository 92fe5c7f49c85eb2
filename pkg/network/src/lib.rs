//! The pod network: the built-in bridge plugin, addresses, host ports.
