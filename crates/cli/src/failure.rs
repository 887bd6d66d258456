//! How a command ends when it does not succeed: one line on stderr, one exit code.
//!
//! *Contract.* `pkg/cobrautl/error.go` of etcd v3.7.1.

/// Any failure that has no code of its own.
pub(crate) const ERROR: u8 = 1;
/// The cluster could not be reached, or a lease request failed.
pub(crate) const BAD_CONNECTION: u8 = 2;
/// What was read from stdin (a transaction, watch requests) makes no sense.
pub(crate) const INVALID_INPUT: u8 = 3;
/// A valid flag with a value that is not supported.
pub(crate) const BAD_FEATURE: u8 = 4;
/// A watch or a snapshot ended before its time.
pub(crate) const INTERRUPTED: u8 = 5;
/// The arguments are wrong.
pub(crate) const BAD_ARGS: u8 = 128;

/// The end of a command that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code of the process.
    pub(crate) code: u8,
    /// Everything still to be written to stderr, line ends included; may be empty.
    pub(crate) text: String,
}

impl Failure {
    /// A failure that is told as `Error: ...`.
    pub(crate) fn new(code: u8, reason: impl std::fmt::Display) -> Failure {
        Failure { code, text: format!("Error: {reason}\n") }
    }

    /// The text without what stands around it.
    pub(crate) fn reason(&self) -> &str {
        self.text.trim_start_matches("Error: ").trim_end()
    }

    /// A failure about which everything has been said already.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure { code, text: String::new() }
    }
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;
