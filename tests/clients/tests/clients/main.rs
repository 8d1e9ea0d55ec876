//! Client libraries against the API server: typical calls, and what comes back as upstream's server answers.
//!
//! - `kube_rs` is written with kube-rs, typed and dynamic, over TLS.
//! - `client_go` runs `client-go/main.go`, where there is a client-go; otherwise the test says that it is skipped.
//! - `python` runs `script.py` with the Python client; without that client the test says that it is skipped.
//!
//! No controllers run: what they would add or tidy up is not what these tests are about.

mod client_go;
mod kube_rs;
mod python;
#[path = "../../../../crates/control-plane/apiserver/tests/api/support.rs"]
mod support;
