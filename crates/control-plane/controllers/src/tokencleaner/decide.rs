//! What becomes of one bootstrap token.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::bootstraptokens;

/// What one Secret needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is no bootstrap token, or lives for ever.
    Keep,
    Delete,
    LookAgain(Timestamp),
}

/// Decides about one Secret.
pub(crate) fn decide(secret: &Secret, now: Timestamp) -> Decision {
    match bootstraptokens::expires(secret).filter(|_| bootstraptokens::is_token(secret)) {
        None => Decision::Keep,
        Some(moment) if moment <= now => Decision::Delete,
        Some(moment) => Decision::LookAgain(moment),
    }
}
