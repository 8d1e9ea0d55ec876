//! What client libraries see of the API is pinned in `tests/`; this crate has no code of its own.
