//! Files of the operating system.

/// The real file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Real;
