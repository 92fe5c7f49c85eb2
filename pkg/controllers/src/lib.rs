//! The controllers: pure plans over snapshots, run by the runner.
