//! Disks without space.
