//! A runtime that pretends.
