//! Short, stable hashes of pod templates, for the `pod-template-hash` and `controller-revision-hash` labels.
//!
//! Upstream hashes a dump of Go structs, so equal numbers are impossible; shape and alphabet are the same.

use serde::Serialize;

use crate::names::safe_encode;

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// 32-bit FNV-1a.
fn fnv32a(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

/// Hashes `object` as JSON, salted with the number of collisions met so far (none when absent).
pub(crate) fn of<T: Serialize>(object: &T, collisions: Option<i32>) -> String {
    let bytes = serde_json::to_vec(object).expect("API types always serialise");
    let mut hash = fnv32a(OFFSET, &bytes);
    if let Some(count) = collisions {
        hash = fnv32a(hash, &count.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}
