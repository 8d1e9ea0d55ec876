//! `Debug` for the messages that carry credentials or environment values: names only, never values.

use std::fmt;

use crate::v1::{AuthConfig, KeyValue};

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let auth = AuthConfig { username: "joe".into(), password: "hunter2".into(), ..Default::default() };
        let text = format!("{auth:?} {:?}", KeyValue { key: "TOKEN".into(), value: b"hunter2".to_vec() });
        assert!(text.contains("joe") && text.contains("TOKEN"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("104, 117"), "{text}");
    }
}
