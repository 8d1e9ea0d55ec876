//! Questions to ask of an API error: retry now, retry later, or give up.

use std::error::Error as StdError;

use kube::Error;
use kube::core::Status;

/// The `Status` the server answered with, when it did answer.
pub fn status_of(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The object is not there.
pub fn is_not_found(error: &Error) -> bool {
    status_of(error).is_some_and(Status::is_not_found)
}

/// An object of that name is there already.
pub fn is_already_exists(error: &Error) -> bool {
    status_of(error).is_some_and(Status::is_already_exists)
}

/// Somebody else changed the object first (or a precondition does not hold): read again and decide again.
pub fn is_conflict(error: &Error) -> bool {
    status_of(error).is_some_and(|status| status.is_conflict() && !status.is_already_exists())
}

/// The identity may not do that.
pub fn is_forbidden(error: &Error) -> bool {
    status_of(error).is_some_and(Status::is_forbidden)
}

/// The object does not pass validation: trying again changes nothing.
pub fn is_invalid(error: &Error) -> bool {
    status_of(error).is_some_and(Status::is_invalid)
}

/// The resourceVersion (or continue token) is too old: list again.
pub fn is_expired(error: &Error) -> bool {
    status_of(error)
        .is_some_and(|status| status.code == 410 || status.reason == "Expired" || status.reason == "Gone")
}

/// The same request may succeed later: the server was not reached, is overloaded, or failed inside.
pub fn is_retriable(error: &Error) -> bool {
    match error {
        Error::Api(status) => {
            matches!(status.code, 429 | 500 | 502 | 503 | 504)
                || matches!(status.reason.as_str(), "ServerTimeout" | "Timeout" | "TooManyRequests")
        }
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// The error and its sources in one line, outermost first, for logs.
///
/// A cause that its parent already quotes is not repeated.
pub fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}
