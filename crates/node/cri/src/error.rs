//! The one error of runtime calls: which call, and what the runtime said.

use tonic::Code;

/// A runtime call that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint is neither a path nor a `unix://` address.
    #[error("runtime endpoint {endpoint:?} is not a unix socket address")]
    Endpoint {
        /// The text given.
        endpoint: String,
    },
    /// The runtime answered with an error, or could not be reached (code `Unavailable`).
    #[error("{message}")]
    Call {
        /// The call, in CRI's words.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// The runtime's text.
        message: String,
    },
    /// No answer within the deadline.
    #[error("{call} did not finish within {seconds} s")]
    Deadline {
        /// The call, in CRI's words.
        call: &'static str,
        /// The deadline that passed.
        seconds: u64,
    },
    /// The answer lacks a field that CRI requires.
    #[error("{call}: the runtime's answer has no {field}")]
    Incomplete {
        /// The call, in CRI's words.
        call: &'static str,
        /// The missing field.
        field: &'static str,
    },
}

impl Error {
    pub(crate) fn call(call: &'static str, status: &tonic::Status) -> Self {
        Self::Call { call, code: status.code(), message: status.message().to_owned() }
    }

    /// The gRPC code, if the runtime or the transport gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call { code, .. } => Some(*code),
            Self::Deadline { .. } => Some(Code::DeadlineExceeded),
            Self::Endpoint { .. } | Self::Incomplete { .. } => None,
        }
    }

    /// The object asked for does not exist (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// The runtime does not offer this call.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    /// Nobody answers at the endpoint: worth another try.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.code() == Some(Code::Unavailable)
    }

    /// The text as upstream's kubelet shows a gRPC error, for events and waiting messages.
    #[must_use]
    pub fn grpc_text(&self) -> String {
        match self {
            Self::Call { code, message, .. } => {
                format!("rpc error: code = {} desc = {message}", code_name(*code))
            }
            Self::Deadline { .. } => {
                "rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()
            }
            other => other.to_string(),
        }
    }
}

/// gRPC's names of the codes, as Go prints them.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
