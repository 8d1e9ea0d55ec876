//! How often tokens of service accounts were accepted, by what kind of token it was.

use jiff::Timestamp;
use podium_client::metrics::{Counter, Metric as _, head};
use serde_json::Value;

/// See the module. Source: `k8s.io/kubernetes/pkg/serviceaccount/metrics.go`.
#[derive(Debug, Default)]
pub(super) struct Uses {
    valid: Counter,
    stale: Counter,
    /// Tokens without end.
    pub(super) legacy: Counter,
    /// Of them: in a Secret that the account lists, which a controller made long ago.
    pub(super) automatic: Counter,
    /// In a Secret that somebody made.
    pub(super) manual: Counter,
    /// Marked as not to be used any more, and refused.
    pub(super) invalid: Counter,
}

impl Uses {
    /// A token with an end was accepted. Only those count that are good for longer than their pod knows: they are stale when
    /// the pod should have read a newer one.
    pub(super) fn bound(&self, warn_after: &Value, now: Timestamp) {
        match warn_after.as_i64() {
            None | Some(0) => {}
            Some(seconds) if now.as_second() > seconds => self.stale.increment(),
            Some(_) => self.valid.increment(),
        }
    }

    pub(super) fn render(&self, out: &mut String) {
        for (name, help, count) in [
            ("valid_tokens", "Accepted tokens that are as new as they should be.", &self.valid),
            ("stale_tokens", "Accepted tokens that should have been replaced by a newer one.", &self.stale),
            ("legacy_tokens", "Tokens without end that were shown.", &self.legacy),
            (
                "legacy_auto_token_uses",
                "Accepted tokens without end that a controller made.",
                &self.automatic,
            ),
            (
                "legacy_manual_token_uses",
                "Accepted tokens without end that somebody asked for.",
                &self.manual,
            ),
            (
                "invalid_legacy_auto_token_uses",
                "Refused tokens without end that are marked as invalid.",
                &self.invalid,
            ),
        ] {
            let name = format!("serviceaccount_{name}_total");
            head(out, &name, "counter", &format!("[ALPHA] {help}"));
            count.write(out, &name, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_stale_when_its_pod_should_have_a_newer_one() {
        let uses = Uses::default();
        let now = Timestamp::from_second(1000).unwrap();
        for (warn_after, counts) in
            [(json!(null), (0, 0)), (json!(0), (0, 0)), (json!(1000), (1, 0)), (json!(999), (1, 1))]
        {
            uses.bound(&warn_after, now);
            assert_eq!((uses.valid.value(), uses.stale.value()), counts, "{warn_after}");
        }
        let mut text = String::new();
        uses.render(&mut text);
        assert!(text.ends_with("\nserviceaccount_invalid_legacy_auto_token_uses_total 0\n"), "{text}");
        assert!(text.contains("\nserviceaccount_stale_tokens_total 1\n"), "{text}");
    }
}
