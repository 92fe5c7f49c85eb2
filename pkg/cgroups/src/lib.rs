//! Control groups, version 1, hybrid and 2.
