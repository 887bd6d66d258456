//! The command-line tools of a member's user.
