//! The generated messages and clients of etcd's API, and what their `Debug` may show.

use std::fmt;

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "../generated/mvccpb.rs"]
pub(crate) mod mvccpb;

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "../generated/etcdserverpb.rs"]
pub(crate) mod etcdserverpb;

// Values may be secrets.
impl fmt::Debug for mvccpb::KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("mod_revision", &self.mod_revision)
            .field("len", &self.value.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for etcdserverpb::PutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutRequest").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_show() {
        let kv = mvccpb::KeyValue { value: "hunter2".into(), ..Default::default() };
        let put = etcdserverpb::PutRequest { value: "hunter2".into(), ..Default::default() };
        assert!(!format!("{kv:?}{put:?}").contains("hunter2"));
    }
}
