//! Shared informers and the one controller runner.
