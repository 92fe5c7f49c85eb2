//! The OCI runtime: a config.json becomes an ordered plan of typed steps, then a container.
