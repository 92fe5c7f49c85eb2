//! The API server: one pipeline for every request.
